/** Pools of public addresses, which administrators give and every tenant takes from. Spans tenants: for the command `rhyzome`. */
import { sql } from 'kysely';
import {
  broadcastOf,
  type Cidr4,
  formatIpv4,
  invalid,
  isName,
  nameRule,
  notFound,
  parseCidr4,
  parseIpv4,
  RhyzomeError,
} from '#libs/core';
import { type Tx, violatedForeignKey } from '#libs/db';

export interface Pool {
  name: string;
  description: string;
  /** `first-last`, ascending. */
  ranges: string[];
  addresses: { total: number; used: number };
  createdAt: Date;
}

interface Range {
  first: number;
  last: number;
}

const MAX_RANGES = 64;
const MAX_ADDRESSES = 2 ** 20;

/** What no public address can be: RFC 6890's local ranges, and what nodes and VPN tunnels use inside. */
const reserved: Cidr4[] = [
  '0.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '198.18.0.0/15',
  '224.0.0.0/3',
].map((text) => parseCidr4(text)!);

/** Reads `CIDR`s (all of their addresses) and `first-last`. Throws RhyzomeError `invalid`. */
export function parseRanges(texts: readonly string[]): Range[] {
  if (texts.length > MAX_RANGES) throw refused(`are more than ${MAX_RANGES}`);
  const ranges = texts.map(parseRange).sort((a, b) => a.first - b.first);
  for (const [i, range] of ranges.entries()) {
    if (i > 0 && range.first <= ranges[i - 1]!.last) throw refused(`name ${formatIpv4(range.first)} twice`);
    const within = reserved.find((cidr) => range.first <= broadcastOf(cidr) && range.last >= cidr.network);
    if (within) throw refused(`reach into ${formatIpv4(within.network)}/${within.prefix}, which is reserved`);
  }
  const total = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  if (total > MAX_ADDRESSES) throw refused(`have more than ${MAX_ADDRESSES} addresses`);
  return ranges;
}

function parseRange(text: string): Range {
  const cidr = parseCidr4(text);
  if (cidr && !cidr.hostBits) return { first: cidr.network, last: broadcastOf(cidr) };
  const [first, last, ...rest] = text.split('-').map((part) => parseIpv4(part.trim()));
  if (!cidr && first !== undefined && last !== undefined && rest.length === 0 && first <= last) return { first, last };
  throw refused(`are wrong at “${text.slice(0, 40)}”: name IPv4 CIDRs without host bits, or FIRST-LAST`);
}

function refused(message: string): RhyzomeError {
  return invalid([{ parameter: 'ranges', code: 'invalid_value', message }]);
}

/** Throws RhyzomeError `invalid`, `name_taken`, `address_in_use`. */
export async function createPool(
  tx: Tx,
  pool: { name: string; description?: string; ranges: readonly string[] },
): Promise<Pool> {
  const { name, description = '' } = pool;
  if (!isName(name)) throw invalid([{ parameter: 'name', code: 'invalid_format', message: nameRule }]);
  if (description.length > 255) {
    throw invalid([{ parameter: 'description', code: 'too_long', message: 'has more than 255 characters' }]);
  }
  const ranges = parseRanges(pool.ranges);
  const made = await tx
    .insertInto('public_pool')
    .values({ name, description })
    .onConflict((oc) => oc.doNothing())
    .returning('name')
    .executeTakeFirst();
  if (!made) throw new RhyzomeError('name_taken', `There is a pool “${name}” already.`);
  for (const range of ranges) {
    const [first, last] = [formatIpv4(range.first), formatIpv4(range.last)];
    await tx
      .insertInto('public_pool_range')
      .values({ pool: name, first_ip: first, last_ip: last, hint: first })
      .execute()
      .catch((error: { constraint?: string }) => {
        if (error.constraint !== 'public_pool_range_apart') throw error;
        throw new RhyzomeError('address_in_use', `Another pool has addresses of ${first}-${last}.`, { cause: error });
      });
  }
  return findPool(tx, name);
}

export async function listPools(tx: Tx): Promise<Pool[]> {
  const result = await sql<Omit<Pool, 'addresses'> & { total: number; used: number }>`
    select p.name, p.description, p.created_at as "createdAt", u.total, u.used,
      (select coalesce(json_agg(host(r.first_ip) || '-' || host(r.last_ip) order by r.first_ip), '[]')
        from public_pool_range r where r.pool = p.name) as ranges
    from public_pool p join public_pool_use() u on u.name = p.name order by p.name`.execute(tx);
  return result.rows.map(({ total, used, ...pool }) => ({ ...pool, addresses: { total, used } }));
}

async function findPool(tx: Tx, name: string): Promise<Pool> {
  const found = (await listPools(tx)).find((pool) => pool.name === name);
  if (!found) throw notFound('pool', name);
  return found;
}

/** Removes a pool that nobody has an address of, and returns it as it was. Throws RhyzomeError `not_found`, `in_use`. */
export async function deletePool(tx: Tx, name: string): Promise<Pool> {
  const pool = await findPool(tx, name);
  const inUse = () =>
    new RhyzomeError('in_use', `${pool.addresses.used || 'Some'} addresses of the pool “${name}” are in use.`);
  if (pool.addresses.used > 0) throw inUse();
  try {
    await tx.deleteFrom('public_pool').where('name', '=', name).execute();
  } catch (error) {
    // Somebody took one just now.
    throw violatedForeignKey(error) ? inUse() : error;
  }
  return pool;
}
