/**
 * For this command's tests: an installation with a database of its own on the run's server, a login for each role as in
 * production, and its settings file. The server's functions are handed in, since only tests may reach libs/devdb.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectionOf } from '#libs/config';
import { createPool, Database, ensureRoles } from '#libs/db';
import { runCli } from './program.js';

interface Server {
  superuserUrl(database?: string): string;
  url(login: { user: string; password?: string; database: string }): string;
  dropDatabase(name: string): Promise<void>;
}

export interface Tools {
  testCluster(): Promise<Server>;
  createDatabase(url: string, name: string, template?: string, owner?: string): Promise<boolean>;
  ensureLogin(url: string, login: { name: string; password: string; memberOf: string[] }): Promise<void>;
}

export interface Outcome {
  status: number;
  out: string;
  err: string;
}

export class TestInstallation {
  private constructor(
    readonly dir: string,
    readonly database: string,
    readonly connections: { db: string; dbOperator: string; dbOwner: string },
    private readonly server: Server,
    /** As operator. */
    readonly db: Database,
  ) {}

  /** `migrated: false`: the database is there, and empty. */
  static async make(tools: Tools, options: { migrated?: boolean } = {}): Promise<TestInstallation> {
    const server = await tools.testCluster();
    const unique = randomBytes(6).toString('hex');
    const database = `cli_${unique}`;
    const superuser = server.superuserUrl();
    await makeRoles(superuser);
    const login = async (name: string, memberOf: string[]) => {
      const user = `${name}_${unique}`;
      await tools.ensureLogin(superuser, { name: user, password: unique, memberOf });
      return { user, url: server.url({ user, password: unique, database }) };
    };
    const owner = await login('dba', ['rhyzome_owner', 'rhyzome_app', 'rhyzome_operator']);
    const connections = {
      db: (await login('app', ['rhyzome_app'])).url,
      dbOperator: (await login('ops', ['rhyzome_operator'])).url,
      dbOwner: owner.url,
    };
    await tools.createDatabase(superuser, database, undefined, owner.user);
    const dir = mkdtempSync(join(tmpdir(), 'rhyzome-cli-'));
    const config = { operator: connectionOf(connections.dbOperator, dir), app: connectionOf(connections.db, dir) };
    const made = new TestInstallation(
      dir,
      database,
      connections,
      server,
      new Database({ ...config, maxConnections: 2 }),
    );
    made.settings({ ...connections, storage: { dir: 'storage' } });
    if (options.migrated !== false) await made.ok('db', 'migrate');
    return made;
  }

  /** Writes a settings file and returns its path. */
  settings(content: object, name = 'rhyzome-api.json'): string {
    const file = join(this.dir, name);
    writeFileSync(file, JSON.stringify(content));
    return file;
  }

  async run(...args: string[]): Promise<Outcome> {
    return this.runWith({}, ...args);
  }

  /** With another settings file, or with somebody who answers questions. */
  async runWith(with_: { config?: string; answer?: string }, ...args: string[]): Promise<Outcome> {
    let out = '';
    let err = '';
    const config = with_.config ?? join(this.dir, 'rhyzome-api.json');
    const status = await runCli(['--config', config, ...args], {
      out: (text) => {
        out += text;
      },
      err: (text) => {
        err += text;
      },
      ...(with_.answer !== undefined && {
        ask: async (question: string) => {
          err += question;
          return with_.answer!;
        },
      }),
    });
    return { status, out, err };
  }

  /** The output of a command that must succeed in silence on standard error. */
  async ok(...args: string[]): Promise<string> {
    const { status, out, err } = await this.run(...args);
    if (status !== 0 || err !== '') throw new Error(`rhyzome ${args.join(' ')} ended with ${status}: ${err}`);
    return out;
  }

  /** As `ok`, with --json. */
  async json<T = any>(...args: string[]): Promise<T> {
    return JSON.parse(await this.ok(...args, '--json')) as T;
  }

  /** The audit rows of a tenant, oldest first. */
  async audit(tenantId: string) {
    return this.db.operator
      .selectFrom('audit')
      .select(['action', 'actor', 'result', 'resource_name', 'details'])
      .where('tenant_id', '=', tenantId)
      .orderBy('id')
      .execute();
  }

  async remove(): Promise<void> {
    await this.db.close();
    await this.server.dropDatabase(this.database);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

async function makeRoles(superuser: string): Promise<void> {
  const pool = createPool(connectionOf(superuser, '/'), null, { max: 1 });
  const client = await pool.connect();
  try {
    await ensureRoles(client);
  } finally {
    client.release();
    await pool.end();
  }
}
