/** The order of work, on capabilities that remember what they were asked: who waits for whom, who keeps nobody waiting. */
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { type Capability, DriverError, type Found, type Ref } from '#libs/drivers/contract';
import { type Observed, Phase } from '#libs/rpc';
import { checkDrift } from './drift.js';
import { Reconciler } from './reconciler.js';
import { backOffMs, KeyedQueue, Slots } from './schedule.js';
import { desired } from './testing/index.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };

interface Wish {
  fails?: number;
  forGood?: boolean;
  hangs?: boolean;
}

class Recorder implements Capability<Wish, { value: string }> {
  readonly machine = new Map<string, Found<{ value: string }>>();
  inventories = 0;
  private readonly failures = new Map<string, number>();

  constructor(
    readonly kind: string,
    readonly after: string[],
    private readonly calls: string[],
  ) {}

  async apply(ref: Ref, spec: Wish, signal: AbortSignal): Promise<{ value: string }> {
    this.calls.push(`+${ref.id}`);
    if (spec.hangs) await sleep(60_000, undefined, { signal });
    await sleep(1);
    const failed = this.failures.get(ref.id) ?? 0;
    this.failures.set(ref.id, failed + 1);
    if (failed < (spec.fails ?? 0)) throw new DriverError('not_now', 'Not now.', { permanent: spec.forGood });
    this.machine.set(ref.id, { ref, status: { value: 'on' } });
    return { value: 'on' };
  }

  async remove(ref: Ref): Promise<void> {
    this.calls.push(`-${ref.id}`);
    await sleep(1);
    this.machine.delete(ref.id);
  }

  async inventory(): Promise<Found<{ value: string }>[]> {
    this.inventories += 1;
    return [...this.machine.values()].map(({ ref, status }) => ({ ref, status: { ...status } }));
  }

  watch(): () => void {
    return () => {};
  }
}

let open: Reconciler | undefined;
afterEach(() => open?.close());

function setUp(orderTimeoutMs = 5_000) {
  const calls: string[] = [];
  const told: Observed[] = [];
  const networks = new Recorder('network', [], calls);
  const instances = new Recorder('instance', ['network'], calls);
  const queue = new KeyedQueue();
  const reconciler = new Reconciler({
    capabilities: [instances, networks],
    queue,
    log: quiet,
    onObserved: (observed) => told.push(observed),
    concurrency: 4,
    retry: { firstMs: 20, mostMs: 100 },
    tryTimeoutMs: 5_000,
    orderTimeoutMs,
  });
  open = reconciler;
  const phases = (id: string) => told.filter(({ ref }) => ref?.id === id).map(({ phase }) => phase);
  return { calls, told, networks, instances, queue, reconciler, phases };
}

function ref(kind: string, id: string, tenantId = 'acme'): Ref {
  return { tenantId, kind, id };
}

describe('order', () => {
  test('what others build on comes first and goes last, in whatever order it is asked for', async () => {
    const { calls, queue, reconciler } = setUp();
    const all = [ref('instance', 'i1'), ref('network', 'n1'), ref('instance', 'i2'), ref('network', 'n2')];
    reconciler.desire(
      all.map((one) => desired(one, 1n, {})),
      true,
    );
    await expect.poll(() => calls.length).toBe(4);
    expect(calls.slice(0, 2).sort()).toEqual(['+n1', '+n2']);
    await queue.idle();
    calls.length = 0;
    reconciler.desire(
      all.map((one) => desired(one, 2n, undefined)),
      false,
    );
    await expect.poll(() => calls.length).toBe(4);
    expect(calls.slice(0, 2).sort()).toEqual(['-i1', '-i2']);
  });

  test('one that hangs or fails keeps neither another tenant waiting nor, for long, its own', async () => {
    const { calls, reconciler, phases } = setUp(300);
    reconciler.desire(
      [
        desired(ref('network', 'hanging'), 1n, { hangs: true }),
        desired(ref('instance', 'mine'), 1n, {}),
        desired(ref('network', 'failing', 'globex'), 1n, { fails: 2 }),
        desired(ref('instance', 'theirs', 'globex'), 1n, {}),
      ],
      true,
    );
    await expect.poll(() => phases('theirs')).toEqual([Phase.PHASE_READY]);
    expect(phases('mine')).toEqual([]);
    await expect.poll(() => phases('mine')).toEqual([Phase.PHASE_READY]);
    await expect
      .poll(() => phases('failing'))
      .toEqual([Phase.PHASE_PROGRESSING, Phase.PHASE_PROGRESSING, Phase.PHASE_READY]);
    expect(calls.indexOf('+theirs')).toBeGreaterThan(calls.indexOf('+failing'));
  });

  test('a thousand are made in a moment', async () => {
    const { reconciler, told } = setUp();
    const all = Array.from({ length: 500 }, (_, n) => [
      desired(ref('instance', `i${n}`, `t${n % 20}`), 1n, {}),
      desired(ref('network', `n${n}`, `t${n % 20}`), 1n, {}),
    ]).flat();
    const before = performance.now();
    reconciler.desire(all, true);
    await expect.poll(() => told.length, { timeout: 10_000 }).toBe(1000);
    expect(told.every(({ phase }) => phase === Phase.PHASE_READY)).toBe(true);
    expect(performance.now() - before).toBeLessThan(5_000);
  });
});

test('whatever is desired in whatever order, doubled and late, the highest revision wins', async () => {
  const change = fc.record({ id: fc.constantFrom('a', 'b', 'c'), revision: fc.bigInt(1n, 6n) });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 12 }), async (changes) => {
      const { networks, queue, reconciler } = setUp();
      // Odd revisions want it there, even ones do not.
      for (const { id, revision } of changes) {
        reconciler.desire([desired(ref('network', id), revision, revision % 2n === 1n ? {} : undefined)], false);
        await sleep(Number(revision % 3n));
      }
      await expect.poll(() => [...reconciler.all()].every((item) => item.settled)).toBe(true);
      await queue.idle();
      reconciler.close();
      for (const id of ['a', 'b', 'c']) {
        const revisions = changes.filter((one) => one.id === id).map(({ revision }) => revision);
        const highest = [...revisions, 0n].sort((a, b) => Number(b - a))[0]!;
        expect(networks.machine.has(id)).toBe(highest % 2n === 1n);
      }
    }),
    { numRuns: 20 },
  );
});

describe('changes by themselves', () => {
  async function oneInstance() {
    const setup = setUp();
    const me = ref('instance', 'i');
    setup.reconciler.desire([desired(me, 1n, {})], true);
    await expect.poll(() => setup.phases('i')).toEqual([Phase.PHASE_READY]);
    return { ...setup, me };
  }

  test('are told once they are confirmed', async () => {
    const { instances, reconciler, told, me } = await oneInstance();
    instances.machine.get('i')!.status = { value: 'off' };
    reconciler.noteStatus({ ref: me, status: { value: 'off' } });
    await expect.poll(() => told.at(-1)?.statusJson).toBe('{"value":"off"}');
    expect(told).toHaveLength(2);
  });

  test('that belong to a deed under way are not told', async () => {
    const { instances, queue, reconciler, told, me } = await oneInstance();
    const reboot = queue.run('instance/i', async () => {
      instances.machine.get('i')!.status = { value: 'off' };
      reconciler.noteStatus({ ref: me, status: { value: 'off' } });
      await sleep(50);
      instances.machine.get('i')!.status = { value: 'on' };
    });
    await reboot;
    await queue.idle();
    expect(told).toHaveLength(1);
    expect(instances.inventories).toBe(1);
  });

  test('what vanished is made again, what came back is taken away again', async () => {
    const { calls, instances, networks, reconciler, me } = await oneInstance();
    instances.machine.clear();
    const driver = {
      name: 'x',
      capabilities: [networks, instances],
      capacity: async () => ({}) as never,
      close: async () => {},
    };
    await checkDrift(driver, reconciler, quiet);
    await expect.poll(() => instances.machine.has('i')).toBe(true);
    reconciler.desire([desired(me, 2n, undefined)], false);
    await expect.poll(() => instances.machine.has('i')).toBe(false);
    await expect.poll(() => reconciler.item(me)?.settled).toBe(true);
    instances.machine.set('i', { ref: me, status: { value: 'on' } });
    await checkDrift(driver, reconciler, quiet);
    await expect.poll(() => instances.machine.has('i')).toBe(false);
    expect(calls).toEqual(['+i', '+i', '-i', '-i']);
  });

  test('what failed for good is told once, and made when its cause has gone', async () => {
    const { calls, instances, networks, reconciler, phases } = setUp();
    const driver = { name: 'x', capabilities: [networks, instances], capacity: async () => ({}) as never, close() {} };
    reconciler.desire([desired(ref('instance', 'i'), 1n, { fails: 2, forGood: true })], true);
    await expect.poll(() => phases('i')).toEqual([Phase.PHASE_FAILED]);
    await checkDrift(driver as never, reconciler, quiet);
    await expect.poll(() => calls).toEqual(['+i', '+i']);
    await expect.poll(() => reconciler.item(ref('instance', 'i'))?.running).toBeUndefined();
    expect(phases('i')).toEqual([Phase.PHASE_FAILED]);
    await checkDrift(driver as never, reconciler, quiet);
    await expect.poll(() => phases('i')).toEqual([Phase.PHASE_FAILED, Phase.PHASE_READY]);
  });

  test('what a snapshot does not mention is forgotten and stays as it is', async () => {
    const { instances, reconciler, me } = await oneInstance();
    reconciler.beginSnapshot();
    reconciler.desire([], true);
    expect(reconciler.item(me)).toBeUndefined();
    expect(instances.machine.has('i')).toBe(true);
  });
});

test('back-off doubles, has a most, and takes at most half off', () => {
  fc.assert(
    fc.property(fc.nat(1000), fc.double({ min: 0, max: 1, noNaN: true }), (attempt, random) => {
      const ms = backOffMs(attempt, { firstMs: 100, mostMs: 5000 }, () => random);
      const full = Math.min(5000, 100 * 2 ** attempt);
      expect(ms).toBeGreaterThanOrEqual(Math.floor(full / 2));
      expect(ms).toBeLessThanOrEqual(full);
    }),
  );
});

test('no more than the slots allow work at once, and every one of them does', async () => {
  const slots = new Slots(3);
  let most = 0;
  let now = 0;
  const works = Array.from({ length: 20 }, (_, n) =>
    slots.run(async () => {
      now += 1;
      most = Math.max(most, now);
      await sleep(1);
      now -= 1;
      if (n % 5 === 0) throw new Error('failed');
    }),
  );
  const results = await Promise.allSettled(works);
  expect(most).toBe(3);
  expect(results.filter(({ status }) => status === 'rejected')).toHaveLength(4);
});
