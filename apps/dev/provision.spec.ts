/** Tenants with realms, whatever state a start before has left, by a `rhyzome` that keeps its tenants in memory. */
import { beforeEach, expect, it } from 'vitest';
import { type AdminCommand, CommandFailed } from './admin-command.js';
import { ensureTenants } from './provision.js';

interface Tenant {
  id: string;
  displayName: string;
  issuers: { issuer: string; managed?: boolean }[];
}

const at = (id: string, port = 8180) => `http://127.0.0.1:${port}/realms/${id}`;
const wanted = new Map(['acme', 'globex'].map((id) => [id, at(id)]));
let tenants: Map<string, Tenant>;
let changes: number;
/** The changes after which the next one is not reached: npm start was killed. */
let diesAfter: number;

beforeEach(() => {
  tenants = new Map();
  changes = 0;
  diesAfter = Number.POSITIVE_INFINITY;
});

const rhyzome: AdminCommand = async (args) => {
  const [, verb, id = ''] = args;
  if (verb === 'list') return JSON.stringify([...tenants.values()]);
  if (changes++ >= diesAfter) throw new CommandFailed(args, 'SIGKILL', 'killed');
  const tenant = tenants.get(id);
  const realm = { issuer: at(id), managed: true };
  const option = (name: string) => args[args.indexOf(name) + 1]!;
  if (verb === 'create' && !tenant) tenants.set(id, { id, displayName: option('--display-name'), issuers: [realm] });
  else if (verb === 'update' && tenant && args.includes('--clear-issuers'))
    tenant.issuers = tenant.issuers.filter(({ managed }) => managed);
  else if (verb === 'update' && tenant && option('--display-name') === tenant.displayName)
    tenant.issuers = tenant.issuers.map(({ managed }) => ({ issuer: at(id), managed }));
  // As the database: one issuer stands once.
  else if (verb === 'move' && tenant && tenant.issuers.every(({ issuer }) => issuer !== at(id)))
    tenant.issuers = [realm];
  else throw new CommandFailed(args, 1, 'refused');
  return '{}';
};

const issuersNow = () => Object.fromEntries([...tenants].map(([id, { issuers }]) => [id, issuers]));
const withRealms = {
  acme: [{ issuer: at('acme'), managed: true }],
  globex: [{ issuer: at('globex'), managed: true }],
};
/** Of a start before tenants had realms. */
const old = (id: string): Tenant => ({ id, displayName: 'Its own name', issuers: [{ issuer: at(id) }] });

it('makes tenants with realms, and leaves them alone at the next start', async () => {
  await ensureTenants(rhyzome, wanted);
  expect(issuersNow()).toEqual(withRealms);
  changes = 0;
  await ensureTenants(rhyzome, wanted);
  expect(changes).toBe(0);
});

it('gives realms to tenants of before, with the issuer and the name that they had', async () => {
  for (const id of wanted.keys()) tenants.set(id, old(id));
  await ensureTenants(rhyzome, wanted);
  expect(issuersNow()).toEqual(withRealms);
  expect(tenants.get('acme')?.displayName).toBe('Its own name');
});

it('goes on wherever it was killed', async () => {
  for (let at = 0; at < 4; at++) {
    tenants = new Map([['acme', old('acme')]]);
    changes = 0;
    diesAfter = at;
    await ensureTenants(rhyzome, wanted).catch((error: Error) => expect(error).toBeInstanceOf(CommandFailed));
    diesAfter = Number.POSITIVE_INFINITY;
    await ensureTenants(rhyzome, wanted);
    expect(issuersNow(), `killed after ${at}`).toEqual(withRealms);
  }
});

it('follows the issuer to another port', async () => {
  await ensureTenants(rhyzome, wanted);
  for (const tenant of tenants.values()) tenant.issuers = [{ issuer: at(tenant.id, 9999), managed: true }];
  await ensureTenants(rhyzome, wanted);
  expect(issuersNow()).toEqual(withRealms);
});
