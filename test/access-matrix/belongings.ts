/** What a tenant of the matrix has: one of each kind made as its recipe says, and what hangs on them. */
import { kinds } from '#libs/kinds';
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
  /** All that bodies may name. */
  named: Thing[];
  lease: string;
  job: string;
  deletedDisk: Thing;
  recipes: Record<string, KindRecipe>;
}

/** Makes it all by the API, so that it is there as a user would have it. `prefix` begins the names of what is tried. */
export async function furnish(lab: Lab, tenant: string, token: string, prefix: string): Promise<Belongings> {
  const client = clientWith(lab.base, token);
  const recipes = await recipesOfAllKinds();
  const named: Thing[] = [];
  const make = async (plural: string, body: { name: string }): Promise<any> => {
    const made = await client.make(plural, body);
    named.push({ plural, id: made.id, name: made.name });
    return made;
  };
  const lan = await make('networks', { name: 'lan', subnet: '10.91.0.0/24' } as { name: string });
  const machine = { name: 'machine', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
  const { id: instance, job } = await make('instances', machine);
  const data = await make('disks', { name: 'data', sizeGiB: 1 } as { name: string });
  await make('publicaddresses', { name: 'front', pool: 'coverage' } as { name: string });
  const world = { network: lan.id, instance, disk: data.id };
  const lease = await client.post(`/v1/networks/${lan.id}/leases`, { mac: '52:54:00:00:00:01' });
  const gone = await client.make('disks', { name: `${prefix}-gone`, sizeGiB: 1 });
  await client.remove('disks', gone.id);
  const things: Record<string, Thing> = {};
  for (const { plural } of kinds) {
    const recipe = recipes[plural];
    if (!recipe) continue;
    await recipe.prepare?.(client);
    things[plural] = { plural, ...(await makeOne(client, plural, recipe, world, `${prefix}-${plural}`)) };
    // The second makes that lists have pages.
    const second = await makeOne(client, plural, recipe, world, `${prefix}-${plural}-2`);
    named.push(things[plural]!, { plural, ...second });
  }
  const deletedDisk = { plural: 'deleted-disks', id: gone.id, name: gone.name };
  return { tenant, token, world, things, named, lease: lease.body.id, job: job.id, deletedDisk, recipes };
}

async function makeOne(client: Client, plural: string, recipe: KindRecipe, world: World, name: string) {
  const made = await client.post(`/v1/${plural}`, { ...recipe.create(world, name), tags: { of: name } });
  if (made.status !== 202) throw new Error(`POST ${plural}: ${made.status} ${made.text}`);
  await recipe.fulfil?.(client, made.body.id);
  const job = await client.get(`/v1/jobs/${made.body.job.id}?wait=60s`);
  if (job.body.state !== 'succeeded') throw new Error(`POST ${plural}: ${job.text}`);
  return { id: made.body.id as string, name };
}

export { placeholder };
