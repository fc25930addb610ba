/** Before and after all tests of a run: offers them one PostgreSQL, which starts when the first asks for it. */
import { serveTestCluster } from '../libs/devdb/index.js';

let end: (() => Promise<void>) | undefined;

export async function setup(): Promise<void> {
  end = await serveTestCluster('.rhyzome/cache');
}

export async function teardown(): Promise<void> {
  await end?.();
}
