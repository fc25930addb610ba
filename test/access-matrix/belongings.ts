/** What a tenant of the matrix has: one of each kind made as its recipe says, and what hangs on them. */
import { raiseAlarm } from '#libs/jobs';
import { kinds } from '#libs/kinds';
import { callerIn, giveLoginPlace } from '#libs/testing';
import { type KindRecipe, placeholder, type World } from '../coverage/kinds.js';
import { recipesOfAllKinds } from '../coverage/recipes.js';
import { type Client, clientWith } from '../harness/client.js';
import type { Lab } from './lab.js';

export interface Thing {
  plural: string;
  id: string;
  name: string;
}

export interface Belongings {
  tenant: string;
  /** An administrator's token. */
  token: string;
  world: World;
  /** Plural → the one that routes are tried on. */
  things: Record<string, Thing>;
  lease: string;
  job: string;
  alarm: string;
  deletedDisk: Thing;
  recipes: Record<string, KindRecipe>;
}

/** Makes it all by the API, so that it is there as a user would have it. `prefix` begins the names of what is tried. */
export async function furnish(lab: Lab, tenant: string, token: string, prefix: string): Promise<Belongings> {
  const client = clientWith(lab.base, token);
  const { platform } = lab;
  const recipes = await recipesOfAllKinds({ platform, caller: callerIn(tenant) });
  await giveLoginPlace(platform, tenant);
  const lan = await client.make('networks', { name: 'lan', subnet: '10.91.0.0/24' });
  const machine = { name: 'machine', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
  const [{ id: instance, job }, data, gone, lease] = await Promise.all([
    client.make('instances', machine),
    client.make('disks', { name: 'data', sizeGiB: 1 }),
    client.make('disks', { name: `${prefix}-gone`, sizeGiB: 1 }),
    client.post(`/v1/networks/${lan.id}/leases`, { mac: '52:54:00:00:00:01' }),
    client.make('publicaddresses', { name: 'front', pool: 'coverage' }),
  ]);
  await client.remove('disks', gone.id);
  const world = { network: lan.id, instance, disk: data.id };
  const made = kinds.map(({ plural }) => {
    const recipe = recipes[plural];
    return recipe ? thingsOf(client, plural, recipe, world, `${prefix}-${plural}`) : foundThing(client, plural);
  });
  const things = Object.fromEntries((await Promise.all(made)).map((thing) => [thing.plural, thing]));
  const alarm = await alarmAbout(platform, tenant, instance);
  const deletedDisk = { plural: 'deleted-disks', id: gone.id, name: gone.name };
  return { tenant, token, world, things, lease: lease.body.id, job: job.id, alarm, deletedDisk, recipes };
}

/** One that is tried, and a second, so that the list has pages. */
async function alarmAbout({ db }: Lab['platform'], tenantId: string, instance: string): Promise<string> {
  return db.tenantTransaction(tenantId, async (tx) => {
    const resource = { kind: 'instance', id: instance };
    for (const code of ['job_overdue', 'job_failing'] as const)
      await raiseAlarm(tx, { tenantId, code, cause: instance, message: 'It is late.', resource });
    return (await tx.selectFrom('alarm').select('id').executeTakeFirstOrThrow()).id;
  });
}

/** Of a kind that no user makes. */
async function foundThing(client: Client, plural: string): Promise<Thing> {
  const { body, text } = await client.get(`/v1/${plural}`);
  const [found] = body.items;
  if (!found) throw new Error(`Nobody has made any of ${plural}: ${text}`);
  return { plural, id: found.id, name: found.name };
}

/** One that is tried, and a second, so that lists have pages. */
async function thingsOf(
  client: Client,
  plural: string,
  recipe: KindRecipe,
  world: World,
  name: string,
): Promise<Thing> {
  await recipe.prepare?.(client);
  const { id } = await makeOne(client, plural, recipe, world, name);
  await makeOne(client, plural, recipe, world, `${name}-2`);
  return { plural, id, name };
}

async function makeOne(client: Client, plural: string, recipe: KindRecipe, world: World, name: string) {
  const made = await client.post(`/v1/${plural}`, { ...recipe.create(world, name), tags: { of: name } });
  if (made.status !== 202) throw new Error(`POST ${plural}: ${made.status} ${made.text}`);
  await recipe.fulfil?.(client, made.body.id);
  const job = await client.get(`/v1/jobs/${made.body.job.id}?wait=60s`);
  if (job.body.state !== 'succeeded') throw new Error(`POST ${plural}: ${job.text}`);
  return { id: made.body.id as string };
}

export { placeholder };
