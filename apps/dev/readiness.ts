/** Waits until what was started serves, as its users would find out. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AdminCommand, adminJson } from './admin-command.js';
import { nodeName } from './certificates.js';

const limitMs = 60_000;

/** Until all of these URLs answer 200. Throws after a minute with the last answer. */
export async function untilReady(what: string, urls: readonly string[], signal: AbortSignal): Promise<void> {
  for (const url of urls) {
    let last = 'no answer';
    await until(
      what,
      signal,
      () => `${url}: ${last}`,
      50,
      async () => {
        try {
          const response = await fetch(url, { signal: AbortSignal.timeout(2_000) });
          last = `status ${response.status}: ${(await response.text()).slice(0, 300)}`;
          return response.status === 200;
        } catch (error) {
          last = String((error as Error).cause ?? error);
          return false;
        }
      },
    );
  }
}

/** Until the node's agent has its stream and has told what it drives: before that nothing can be placed on it. */
export async function untilNodeIsUp(run: AdminCommand, signal: AbortSignal): Promise<void> {
  let last = 'it did not register';
  await until(
    `node ${nodeName}`,
    signal,
    () => last,
    200,
    async () => {
      const nodes = await adminJson<{ name: string; state: string; driver: string }[]>(run, ['node', 'list']);
      const node = nodes.find(({ name }) => name === nodeName);
      if (node) last = `it is ${node.state}`;
      return node?.state === 'up' && node.driver !== '';
    },
  );
}

async function until(
  what: string,
  signal: AbortSignal,
  last: () => string,
  pauseMs: number,
  check: () => Promise<boolean>,
): Promise<void> {
  const deadline = Date.now() + limitMs;
  while (!(await check())) {
    if (Date.now() > deadline) throw new Error(`${what} does not serve after ${limitMs / 1000} s: ${last()}`);
    await sleep(pauseMs, undefined, { signal });
  }
}
