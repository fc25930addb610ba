/**
 * Loaded into a built rhyzome-grpc or rhyzome-agent before its own code (`node --import`), for crash tests only: it finds the
 * points between two statements with an outside effect, numbers them for each tenant, and holds a tenant's work for good
 * at the point that the test asked for, so that the test can kill the process there. The programs know nothing of it.
 *
 * A spare waits here, with all that it will need loaded, until the test says `go`.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import promises from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

interface Order {
  go?: true;
  /** By tenant: the number of the point to hold at; 0: at none, but count. */
  arm?: Record<string, number>;
}

const dist = new URL('../../dist/', import.meta.url);
/** The built modules are the program's own: what is changed here, it runs. */
const load = (path: string): Promise<Record<string, any>> => import(new URL(path, dist).href);

const armed = new Map<string, number>();
const passed = new Map<string, number>();

/** A point of a tenant's work. Resolves at once, or, at the one that was asked for, never. */
function point(tenant: string | undefined, name: string): Promise<void> {
  const wanted = tenant === undefined ? undefined : armed.get(tenant);
  if (tenant === undefined || wanted === undefined) return Promise.resolve();
  const number = (passed.get(tenant) ?? 0) + 1;
  passed.set(tenant, number);
  process.send?.({ tenant, number, name, isHeld: number === wanted });
  // Whoever is behind it is held, too: the process dies here.
  return wanted > 0 && number >= wanted ? new Promise(() => {}) : Promise.resolve();
}

/** Puts `made` in place of a method; private ones are ordinary at run time. */
function replace(owner: any, method: string, made: (original: any) => (this: any, ...given: any[]) => unknown): void {
  const original = owner.prototype[method];
  if (typeof original !== 'function')
    throw new Error(`${owner.name} has no ${method} any more: points.ts is out of date`);
  owner.prototype[method] = made(original);
}

/** Of the jobs: each transaction of the engine, and what it does outside of the database. */
async function instrumentJobs(): Promise<void> {
  const [{ JobRunner }, { JobEndings }, { HeldJob }, { OutsideWork }] = await Promise.all([
    load('libs/jobs/runner.js'),
    load('libs/jobs/endings.js'),
    load('libs/jobs/held-job.js'),
    load('libs/jobs/outside.js'),
  ]);
  replace(
    JobRunner,
    'work',
    (work) =>
      async function (row) {
        await point(row.tenant_id, `claimed ${row.action} of ${row.kind}`);
        return work.call(this, row);
      },
  );
  replace(
    JobEndings,
    'fenced',
    (fenced) =>
      async function (row, ...rest) {
        const result = await fenced.call(this, row, ...rest);
        await point(row.tenant_id, 'committed a state of the job');
        return result;
      },
  );
  replace(
    HeldJob,
    'write',
    (write) =>
      async function (...given) {
        const result = await write.apply(this, given);
        await point(this.row.tenant_id, 'committed a step, an undo or a look');
        return result;
      },
  );
  replace(
    OutsideWork,
    'run',
    (run) =>
      function (lease, work, ...rest) {
        const around = async (signal: AbortSignal) => {
          await point(lease.tenant_id, 'about to do something outside');
          const result = await work(signal);
          await point(lease.tenant_id, 'did something outside');
          return result;
        };
        return run.call(this, lease, around, ...rest);
      },
  );
}

/** Of a node: each effect of its drivers, each durable record of a deed around one, and what is told of them. */
async function instrumentAgent(): Promise<void> {
  const [{ Reconciler }, { Deeds }, { Session }, { Slots }, { Controllers }, { Wire }] = await Promise.all([
    load('libs/agent/reconciler.js'),
    load('libs/agent/deeds.js'),
    load('libs/agent/session.js'),
    load('libs/agent/schedule.js'),
    load('libs/agent/controllers.js'),
    load('libs/agent/migration/index.js'),
  ]);
  /** Whose work it is, in what is called from there. */
  const tenantOf = new AsyncLocalStorage<string>();
  replace(
    Reconciler,
    'make',
    (make) =>
      async function (ref, wanted, ...rest) {
        const what = `${wanted.present ? 'apply' : 'remove'} ${ref.kind}`;
        await point(ref.tenantId, `about to ${what}`);
        const status = await tenantOf.run(ref.tenantId, () => make.call(this, ref, wanted, ...rest));
        await point(ref.tenantId, `did ${what}`);
        return status;
      },
  );
  replace(
    Deeds,
    'performOnce',
    (perform) =>
      function (deed, ...rest) {
        return tenantOf.run(deed.ref?.tenantId, () => perform.call(this, deed, ...rest));
      },
  );
  replace(
    Deeds,
    'effect',
    (effect) =>
      async function (deed, ref, ...rest) {
        await point(ref.tenantId, `about to ${deed.verb}`);
        const result = await effect.call(this, deed, ref, ...rest);
        await point(ref.tenantId, `did ${deed.verb}`);
        return result;
      },
  );
  replace(
    Wire,
    'open',
    (open) =>
      async function (peer, operationId, channel, ...rest) {
        const tenant = tenantOf.getStore();
        await point(tenant, `about to ask the other node for ${channel}`);
        const answer = await open.call(this, peer, operationId, channel, ...rest);
        await point(tenant, `asked the other node for ${channel}`);
        return answer;
      },
  );
  replace(
    Wire,
    'expect',
    (expect) =>
      function (operationId, from, serve) {
        const tenant = tenantOf.getStore();
        return expect.call(this, operationId, from, async (asked: any) => {
          await point(tenant, `about to serve ${asked.channel}`);
          await serve(asked);
          await point(tenant, `served ${asked.channel}`);
        });
      },
  );
  replace(
    Session,
    'write',
    (write) =>
      async function (message) {
        await write.call(this, message);
        const { $case, value } = message.body;
        const tenants = $case === 'report' ? value.items.map(({ ref }: any) => ref.tenantId) : [];
        for (const tenant of new Set<string>(tenants)) void point(tenant, 'sent a report');
      },
  );
  // A server that was killed is back at once, and so is its node: as if there were always another to ask.
  Object.defineProperty(Controllers.prototype, 'size', { get: () => Number.MAX_SAFE_INTEGER });
  // What is held must not keep others from their turn.
  replace(Slots, 'run', () => (work) => work());
  const { rename } = promises;
  promises.rename = async (from, to) => {
    const tenant = tenantOf.getStore();
    if (!String(to).includes('/deeds/')) return rename(from, to);
    await point(tenant, 'wrote a deed aside');
    await rename(from, to);
    await point(tenant, 'recorded a deed');
  };
  syncBuiltinESMExports();
}

const isAgent = process.argv[1]!.includes('/apps/agent/');
// What the program will import, while others still work; its decorators need this first.
if (!isAgent) await import('reflect-metadata');
await (isAgent
  ? Promise.all([load('libs/agent/index.js'), load('libs/process/index.js'), load('libs/config/index.js')])
  : Promise.all([load('apps/grpc/grpc.module.js'), load('libs/rpc/nest/index.js'), load('libs/kinds/index.js')]));
await (isAgent ? instrumentAgent() : instrumentJobs());

await new Promise<void>((go) => {
  process.on('message', (order: Order) => {
    if (order.go) go();
    if (!order.arm) return;
    armed.clear();
    passed.clear();
    for (const [tenant, number] of Object.entries(order.arm)) armed.set(tenant, number);
    process.send?.({ isArmed: true });
  });
  process.on('disconnect', () => process.exit(1));
  process.send?.({ isLoaded: true });
});
