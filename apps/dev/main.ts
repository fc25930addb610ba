/**
 * The supervisor behind `npm start`: starts all of Rhyzome on this machine, keeps it running, and stops it in order at
 * SIGINT or SIGTERM. Ends with 0 after a stop, 64 for a wrong command line, 1 when something does not start.
 */
import { resolve } from 'node:path';
import { hints } from './hints.js';
import { type DevOptions, parseOptions, UsageError, usage } from './options.js';
import { consoleProgress } from './progress.js';
import { startStack, type Undo } from './stack.js';

const dist = resolve(import.meta.dirname, '..', '..');
const root = resolve(dist, '..');

/** Until the first signal; the same signal again changes nothing, since a terminal and npm both send it. */
function stopRequested(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => controller.abort(new Error(`stopped by ${signal}`)));
  return controller.signal;
}

/**
 * In reverse order, with what is still added meanwhile; one that does not stop keeps none of the others from it. Returns
 * whether all did.
 */
async function stopAll(undo: Undo): Promise<boolean> {
  let clean = true;
  for (let last = undo.pop(); last; last = undo.pop()) {
    const { what, stop } = last;
    try {
      await stop();
    } catch (error) {
      clean = false;
      console.error(`  ${what} does not stop: ${(error as Error).message}`);
    }
  }
  return clean;
}

async function run(options: DevOptions): Promise<number> {
  const signal = stopRequested();
  const undo: Undo = [];
  const started = performance.now();
  let status = 0;
  try {
    console.log(`Starting Rhyzome, data in ${options.data}`);
    const stack = await startStack(options, { root, dist }, consoleProgress(), undo, signal);
    console.log(`Everything serves after ${((performance.now() - started) / 1000).toFixed(1)} s.`);
    console.log(hints(stack.devJson, stack.devJsonFile, stack.passwordOf));
    await new Promise<void>((done) => {
      if (signal.aborted) done();
      else signal.addEventListener('abort', () => done(), { once: true });
    });
  } catch (error) {
    if (!signal.aborted) {
      console.error(`npm start: ${(error as Error).message}`);
      status = error instanceof UsageError ? 64 : 1;
    }
  }
  const anything = undo.length > 0;
  if (anything) console.log('Stopping …');
  const clean = await stopAll(undo);
  if (anything && clean) console.log('Stopped.');
  return clean ? status : 1;
}

async function main(argv: readonly string[]): Promise<number> {
  try {
    const options = parseOptions(argv, root);
    if (!options.help) return await run(options);
    console.log(usage);
    return 0;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`npm start: ${error.message}\n\n${usage}`);
    return 64;
  }
}

process.exit(await main(process.argv.slice(2)));
