/** The three roles and what they may do with the schema `public`. Idempotent; needs CREATEROLE the first time. */
import type pg from 'pg';
import type { Role } from './pools.js';

const roles: readonly Role[] = ['rhyzome_owner', 'rhyzome_app', 'rhyzome_operator'];

/**
 * Makes the roles if they are missing, gives the current login the right to take them on, and gives the owner the
 * schema. Throws with what an administrator has to run if the login may not.
 */
export async function ensureRoles(client: pg.ClientBase): Promise<void> {
  await client.query('begin');
  try {
    await makeRoles(client);
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    throw error;
  }
}

/** As `ensureRoles`, in a transaction that is open. */
export async function makeRoles(client: pg.ClientBase): Promise<void> {
  try {
    // Roles belong to the whole cluster: two databases that are set up at once must not race.
    await client.query("select pg_advisory_xact_lock(hashtextextended('rhyzome.roles', 0))");
    for (const role of roles) {
      const found = await client.query('select 1 from pg_roles where rolname = $1', [role]);
      if (found.rowCount === 0) await client.query(`create role ${role} nologin nobypassrls nosuperuser`);
      const member = await client.query<{ ok: boolean }>(
        "select pg_has_role(current_user, $1, 'set') and pg_has_role(current_user, $1, 'member') as ok",
        [role],
      );
      if (!member.rows[0]?.ok) await client.query(`grant ${role} to current_user with inherit true, set true`);
    }
    await client.query('revoke create on schema public from public');
    await client.query('grant usage, create on schema public to rhyzome_owner');
    await client.query('grant usage on schema public to rhyzome_app, rhyzome_operator');
  } catch (error) {
    if ((error as { code?: string }).code === '42501') {
      throw new Error(
        `The login may not make Rhyzome's roles. Let an administrator of the PostgreSQL run, in this database:\n` +
          `${roles.map((role) => `  create role ${role} nologin; grant ${role} to <login of dbOwner> with inherit true, set true;`).join('\n')}\n` +
          `  grant usage, create on schema public to rhyzome_owner; grant usage on schema public to rhyzome_app, rhyzome_operator;\n` +
          `  grant rhyzome_app to <login of db>; grant rhyzome_operator to <login of dbOperator>;`,
        { cause: error },
      );
    }
    throw error;
  }
}
