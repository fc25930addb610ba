/** Databases on a development server, by its superuser. */
import pg from 'pg';

/**
 * Makes a database, as a copy of `template` if one is named (nobody may be connected to that). Returns false when it was
 * there already; then it is left as it is.
 */
export async function createDatabase(superuserUrl: string, name: string, template?: string): Promise<boolean> {
  return withClient(superuserUrl, async (client) => {
    const found = await client.query('select 1 from pg_database where datname = $1', [name]);
    if (found.rowCount) return false;
    const from = template ? ` template ${client.escapeIdentifier(template)}` : '';
    await client.query(`create database ${client.escapeIdentifier(name)}${from}`);
    return true;
  });
}

/** Removes a database with everything in it, sessions included; none there is success. */
export async function dropDatabase(superuserUrl: string, name: string): Promise<void> {
  await withClient(superuserUrl, async (client) => {
    await client.query(`drop database if exists ${client.escapeIdentifier(name)} with (force)`);
  });
}

async function withClient<T>(url: string, use: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end();
  }
}
