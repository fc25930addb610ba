/**
 * Under this token an AbortSignal is injected where something goes on for long (event streams, consoles). It aborts when this
 * replica is about to end: whatever goes on then says so and ends, and its client goes on with another replica.
 */
import { RhyzomeError } from './errors.js';

export const DRAINING = Symbol('draining');

/** What a client is told whose stream ends with its replica. */
export function drainingError(): RhyzomeError {
  return new RhyzomeError('draining', 'This server is being ended; ask again, and another one answers.', {
    retryAfterSeconds: 1,
  });
}
