/** The command line of `npm start`. */
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';

export interface DevOptions {
  /** Folder of all that is kept, absolute. */
  data: string;
  /** Undefined: the usual port or, where that is taken, any; 0: any; else this one or none. */
  ports: { api?: number; grpc?: number; issuer?: number };
  /** Undefined: libvirt where it works, else sim. */
  driver?: 'sim' | 'libvirt';
  tenants: string[];
  /** An address of this machine at which nodes on others reach it; undefined: only nodes here do. */
  nodesAt?: string;
}

/** What is wrong with the command line, in words. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

export const usage = `Usage: npm start -- [options]

Starts all of Rhyzome on this machine, for development and for trying it out; Ctrl-C stops it.

  --data DIR             where everything is kept (default .rhyzome/data in the checkout)
  --api-port N           port of the REST API (default 8080, or any if that is taken; 0: any)
  --grpc-port N          port of the gRPC server (default 7443, likewise)
  --issuer-port N        port of the development token issuer (default 8180, likewise)
  --driver sim|libvirt   what the node drives (default libvirt if it works here, else sim)
  --tenants A,B          tenants to make (default acme,globex)
  --nodes-at ADDRESS     address of this machine at which nodes on other machines reach it (default: none do)
  --help                 this text
`;

/** Throws UsageError. `help` is true where only the usage is asked for. */
export function parseOptions(argv: readonly string[], checkout: string): DevOptions & { help: boolean } {
  const values = parse(argv);
  const driver = values.driver;
  if (driver !== undefined && driver !== 'sim' && driver !== 'libvirt')
    throw new UsageError('--driver is sim or libvirt');
  const tenants = (values.tenants ?? 'acme,globex').split(',');
  for (const tenant of tenants) {
    if (!/^[a-z0-9]{1,63}$/.test(tenant) || tenant === 'system')
      throw new UsageError('--tenants takes ids of lower-case letters and digits, separated by commas, and not system');
  }
  return {
    help: values.help ?? false,
    data: resolve(checkout, values.data ?? '.rhyzome/data'),
    ports: {
      api: port('--api-port', values['api-port']),
      grpc: port('--grpc-port', values['grpc-port']),
      issuer: port('--issuer-port', values['issuer-port']),
    },
    driver,
    tenants: [...new Set(tenants)],
    nodesAt: ownAddress(values['nodes-at']),
  };
}

function parse(argv: readonly string[]) {
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args: [...argv],
      options: {
        data: text,
        'api-port': text,
        'grpc-port': text,
        'issuer-port': text,
        driver: text,
        tenants: text,
        'nodes-at': text,
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function port(flag: string, given: string | undefined): number | undefined {
  if (given === undefined) return undefined;
  const value = /^\d{1,5}$/.test(given) ? Number(given) : Number.NaN;
  if (!(value <= 65535)) throw new UsageError(`${flag} takes a port from 0 to 65535`);
  return value;
}

function ownAddress(given: string | undefined): string | undefined {
  if (given === undefined) return undefined;
  const own = Object.values(networkInterfaces()).flatMap((found) => found?.map(({ address }) => address) ?? []);
  if (isIP(given) && own.includes(given)) return given;
  throw new UsageError(`--nodes-at takes an address of this machine; it has ${own.join(', ')}`);
}
