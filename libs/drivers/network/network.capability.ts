/**
 * Networks on Linux: per network a bridge, a router in a namespace of its own with dnsmasq, rules, a VPN door and the
 * metadata address, a guard against forged frames, and a way out and in where the machine has one. Converges from any
 * half-made state, also after the machine's restart; what is there is found on the machine, its record (see record.ts)
 * only adds what names cannot tell.
 */
import { type Capability, type DriverContext, DriverError, type Found, type NetworkSpec } from '#libs/drivers/contract';
import { CommandError, createRunner } from '#libs/drivers/host';
import { Announcer } from './announcer.js';
import { apply, remove } from './converge.js';
import { halt } from './halt.js';
import { bridgesHere } from './links.js';
import { checkRef, overlayName } from './names.js';
import { checkNetworkSpec } from './network-spec.js';
import { checkUnderlay, overlaysHere } from './overlay.js';
import { type LocalNetworkStatus, type NetworkOptions, type Parts, statusOf, uplinkAddress } from './parts.js';
import { openRecords } from './record.js';
import { lacksProgram } from './role.js';
import { checkUplink } from './uplink.js';

/**
 * Kind `network`. Needs root, ip, nft, sysctl, dnsmasq and socat; wg, and wireguard-go where the kernel has no WireGuard,
 * for networks with a VPN door. Throws when the options are wrong.
 */
export function createNetworkCapability(
  context: DriverContext,
  options: NetworkOptions = {},
): Capability<NetworkSpec, LocalNetworkStatus> {
  if (options.uplink) checkUplink(options.uplink);
  if (options.underlay) checkUnderlay(options.underlay);
  const runner = createRunner(options.enter);
  const parts: Parts = {
    ...{ context, options, runner },
    announcer: new Announcer(runner, context.log),
    records: openRecords(context.stateDir),
    alone: queues(),
  };
  return {
    kind: 'network',
    after: [],
    async apply(ref, spec, signal) {
      checkRef(context.installation, ref);
      const checked = checkNetworkSpec(spec);
      return parts.alone(ref.id, () => told(() => apply(parts, ref, checked, signal)));
    },
    async remove(ref, signal) {
      checkRef(context.installation, ref);
      await parts.alone(ref.id, () => told(() => remove(parts, ref, signal)));
    },
    async halt(ref) {
      checkRef(context.installation, ref);
      await parts.alone(ref.id, () => told(() => halt(parts, ref)));
    },
    inventory: () => told(() => inventory(parts)),
  };
}

async function inventory(parts: Parts): Promise<Found<LocalNetworkStatus>[]> {
  const { installation } = parts.context;
  const address = await uplinkAddress(parts);
  const overlays = await overlaysHere(parts.runner);
  const records = new Map((await parts.records.all()).map((record) => [record.ref.id, record]));
  const here = new Map((await bridgesHere(parts.runner, installation)).map((ref) => [ref.id, ref]));
  const refs = [...here.values(), ...[...records.values()].map(({ ref }) => ref).filter(({ id }) => !here.has(id))];
  const found: Found<LocalNetworkStatus>[] = [];
  for (const ref of refs) {
    const record = records.get(ref.id);
    const isCut = record?.overlay && !overlays.has(overlayName(installation, ref.id));
    const damaged = !here.has(ref.id) || isCut || (record !== undefined && (await lacksProgram(parts, record)));
    const status = statusOf(installation, ref.id, record?.door?.port ?? null, address);
    found.push({ ref, status, ...(damaged && { damaged }) });
  }
  return found;
}

/** Work of one key goes one after the other, in the order of asking. */
function queues(): Parts['alone'] {
  const tails = new Map<string, Promise<unknown>>();
  return (key, work) => {
    const result = (tails.get(key) ?? Promise.resolve()).then(work, work);
    const tail: Promise<void> = result.then(
      () => undefined,
      () => undefined,
    );
    void tail.then(() => {
      if (tails.get(key) === tail) tails.delete(key);
    });
    tails.set(key, tail);
    return result;
  };
}

/** A program's failure as the driver's. */
async function told<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new DriverError('network_failed', error.message, { cause: error });
  }
}
