/** Before and after all tests of a run: a place for whole stacks, which start when a test asks and end with the run. */
import { serveStacks } from './stack.js';

let end: (() => Promise<void>) | undefined;

export async function setup(): Promise<void> {
  end = await serveStacks();
}

export async function teardown(): Promise<void> {
  await end?.();
}
