/**
 * Reads that a migration makes stale in the moment in which they are asked: PostgreSQL refuses a prepared statement whose columns
 * have changed. Prepared and asked anew, nobody need hear of it.
 */
import { isStalePlan } from './prepared.js';

/** More migrations than this are not applied within one read. */
const TRIES = 5;

/** `read` does nothing that must not be done twice, and throws the database's error as a cause. */
export async function againWhileStale<T>(read: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await read();
    } catch (error) {
      if (tries === TRIES || !isStalePlan((error as Error).cause)) throw error;
    }
  }
}
