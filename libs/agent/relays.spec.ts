/** Bytes towards a user: at his pace, within the limits, and no longer than he wants them. */
import { expect, test } from 'vitest';
import type { Capability, Ref } from '#libs/drivers/contract';
import type { RelayChunk, RelayRequest } from '#libs/rpc';
import { Relays } from './relays.js';

const ref: Ref = { tenantId: 'acme', kind: 'instance', id: 'i' };

/** A console that never ends, in chunks of 100,000 bytes. */
function setUp(send: (chunk: RelayChunk) => Promise<void> = async () => {}) {
  const state = { read: 0, closed: 0, sent: [] as RelayChunk[], errors: [] as unknown[] };
  const endless = {
    kind: 'instance',
    async *consoleLog() {
      try {
        for (;;) {
          state.read += 1;
          yield Buffer.alloc(100_000, 'x');
        }
      } finally {
        state.closed += 1;
      }
    },
  } as unknown as Capability<unknown, unknown>;
  const relays = new Relays(
    [endless],
    async (chunk) => {
      state.sent.push(chunk);
      await send(chunk);
    },
    (error) => state.errors.push(error),
  );
  return { relays, state };
}

function request(relayId: string, tailBytes = 0n, channel = 'console-log'): RelayRequest {
  return { relayId, ref, channel, tailBytes, mayType: false };
}

function bytes(chunks: RelayChunk[]): number {
  return chunks.reduce((sum, { data }) => sum + data.length, 0);
}

test('no more than was asked for, nor than the agent gives', async () => {
  for (const [asked, given] of [
    [0n, 1024 * 1024],
    [150_000n, 150_000],
    [1n << 60n, 16 * 1024 * 1024],
  ] as const) {
    const { relays, state } = setUp();
    await relays.serve(request('r', asked));
    expect(bytes(state.sent)).toBe(given);
    expect(state.sent.every(({ data }) => data.length <= 64 * 1024)).toBe(true);
    expect(state.sent.at(-1)).toMatchObject({ end: true, failure: undefined });
    expect(state.closed).toBe(1);
  }
});

test('reads on only when there is room, and stops when nobody reads any more', async () => {
  const waiting: (() => void)[] = [];
  const { relays, state } = setUp(() => new Promise((resolve) => waiting.push(resolve)));
  const served = relays.serve(request('r'));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect([state.read, state.sent.length]).toEqual([1, 1]);
  relays.cancel('r');
  waiting.shift()!();
  await served;
  expect(state).toMatchObject({ read: 1, closed: 1 });
  expect(state.sent).toHaveLength(1);
});

test('what cannot be served ends with its reason; a doubled request is one', async () => {
  const { relays, state } = setUp();
  await relays.serve(request('r1', 0n, 'keyboard'));
  expect(state.sent).toMatchObject([{ relayId: 'r1', end: true, failure: { code: 'unknown_channel' } }]);
  const held = setUp(() => new Promise(() => {}));
  for (let n = 0; n < 33; n += 1) void held.relays.serve(request(`r${n}`));
  void held.relays.serve(request('r0'));
  await expect.poll(() => held.state.sent.filter(({ failure }) => failure?.code === 'overloaded')).toHaveLength(1);
  expect(held.state.read).toBe(32);
});
