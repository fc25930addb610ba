/** Databases on a development server, by its superuser. */
import pg from 'pg';

/**
 * Makes a database, as a copy of `template` if one is named (nobody may be connected to that), for `owner`. Returns false
 * when it was there already; then it is left as it is.
 */
export async function createDatabase(
  superuserUrl: string,
  name: string,
  template?: string,
  owner?: string,
): Promise<boolean> {
  return withClient(superuserUrl, async (client) => {
    const found = await client.query('select 1 from pg_database where datname = $1', [name]);
    if (found.rowCount) return false;
    const from = template ? ` template ${client.escapeIdentifier(template)}` : '';
    const belongs = owner ? ` owner ${client.escapeIdentifier(owner)}` : '';
    await client.query(`create database ${client.escapeIdentifier(name)}${belongs}${from}`);
    return true;
  });
}

/** A login and the roles that it may take on. */
export interface NewLogin {
  name: string;
  password: string;
  /** Made without a login of their own where they are missing. */
  memberOf: string[];
}

/** Makes the login, or gives the one that is there this password and these roles. */
export async function ensureLogin(superuserUrl: string, login: NewLogin): Promise<void> {
  await withClient(superuserUrl, async (client) => {
    const exists = async (role: string) =>
      Boolean((await client.query('select 1 from pg_roles where rolname = $1', [role])).rowCount);
    const name = client.escapeIdentifier(login.name);
    if (!(await exists(login.name))) await client.query(`create role ${name}`);
    const password = client.escapeLiteral(login.password);
    await client.query(`alter role ${name} login nosuperuser nobypassrls password ${password}`);
    for (const role of login.memberOf) {
      const group = client.escapeIdentifier(role);
      if (!(await exists(role))) await client.query(`create role ${group} nologin nosuperuser nobypassrls`);
      // Since PostgreSQL 16 a membership says itself whether it is inherited.
      await client.query(`grant ${group} to ${name} with inherit true, set true`);
    }
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
