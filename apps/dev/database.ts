/**
 * The embedded database of `npm start`: a server that is started again when it dies, with one login for each of
 * Rhyzome's three roles, so that the walls between tenants stand in development as they do in production.
 */
import { createHmac } from 'node:crypto';
import { createDatabase, ensureLogin, type RunningPostgres, startPostgres } from '#libs/devdb';

const database = 'rhyzome';
/** What each connection of the settings logs in as, and which roles that login has. */
const logins = {
  db: { name: 'rhyzome', memberOf: ['rhyzome_app'] },
  dbOperator: { name: 'rhyzome_ops', memberOf: ['rhyzome_operator'] },
  // Migrations give these roles what they may do, hence all three.
  dbOwner: { name: 'rhyzome_dba', memberOf: ['rhyzome_owner', 'rhyzome_app', 'rhyzome_operator'] },
};

export interface DevDatabase {
  /** Connection URLs for the settings. Secrets. */
  readonly connections: { db: string; dbOperator: string; dbOwner: string };
  readonly pid: number;
  stop(): Promise<void>;
}

export interface DevDatabaseOptions {
  dir: string;
  port: number;
  onPid: (pid: number) => void;
  say: (message: string) => void;
}

/** Starts the server on this port and makes logins and database where they are missing. */
export async function startDatabase(options: DevDatabaseOptions): Promise<DevDatabase> {
  const { dir, port, say, onPid } = options;
  const start = () => startPostgres({ dir, port, log: say });
  let server = await start();
  let stopping = false;
  onPid(server.pid);
  const watch = (watched: RunningPostgres): void => {
    void watched.ended.then(async () => {
      for (let pauseMs = 200; !stopping; pauseMs = Math.min(pauseMs * 2, 10_000)) {
        say(`PostgreSQL ended; starts again in ${pauseMs / 1000} s. Its log: ${dir}/postgres.log`);
        await new Promise((done) => setTimeout(done, pauseMs));
        if (stopping) return;
        try {
          server = await start();
          // A stop that came meanwhile has found the old one only.
          if (stopping) return server.stop();
          onPid(server.pid);
          return watch(server);
        } catch (error) {
          say((error as Error).message);
        }
      }
    });
  };
  watch(server);
  const connections = await prepare(server);
  return {
    connections,
    get pid() {
      return server.pid;
    },
    async stop() {
      stopping = true;
      await server.stop();
    },
  };
}

async function prepare(server: RunningPostgres): Promise<DevDatabase['connections']> {
  const superuserUrl = server.superuserUrl();
  // Nothing more to keep: who has the superuser's password has these too.
  const password = (name: string) =>
    createHmac('sha256', new URL(superuserUrl).password).update(name).digest('base64url');
  for (const login of Object.values(logins))
    await ensureLogin(superuserUrl, { ...login, password: password(login.name) });
  await createDatabase(superuserUrl, database, undefined, logins.dbOwner.name);
  const url = ({ name }: { name: string }) => server.url({ user: name, password: password(name), database });
  return { db: url(logins.db), dbOperator: url(logins.dbOperator), dbOwner: url(logins.dbOwner) };
}
