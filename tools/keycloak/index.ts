/**
 * Runs a real Keycloak for tests: finds an unpacked server, makes a copy of it ready once (built for H2, with its database
 * set up), and starts servers from that in seconds, on loopback and with data of their own. It never writes where the
 * server was found. It knows nothing of Rhyzome.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { delimiter, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Of the realm master, in servers that are started here: they listen on loopback, and end with the tests. */
export const keycloakAdmin = { username: 'admin', password: 'admin' };

const buildOptions = ['--db=dev-file', '--health-enabled=true'];
/** Short-lived servers start in half the time without the optimizing compiler; and their memory is bounded. */
const javaOptions = ['-Xms64m', '-Xmx512m', '-XX:MaxMetaspaceSize=256m', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC'];
const buildLimitMs = 300_000;
const startLimitMs = 240_000;

export type FoundKeycloak = { ok: true; home: string; java: string } | { ok: false; reason: string };

/** Where KEYCLOAK_HOME says, else where tools/install-keycloak.sh puts it. The reason says how to get it. */
export function findKeycloak(cache: string, environment: NodeJS.ProcessEnv = process.env): FoundKeycloak {
  const named = environment.KEYCLOAK_HOME;
  const home = named ? resolve(named) : join(cache, 'keycloak');
  if (!existsSync(join(home, 'lib', 'quarkus-run.jar'))) {
    const reason = named
      ? `KEYCLOAK_HOME names no unpacked Keycloak server (${home})`
      : 'there is no Keycloak: tools/install-keycloak.sh fetches one, or KEYCLOAK_HOME names an unpacked one';
    return { ok: false, reason };
  }
  const java = javaIn(environment);
  if (java) return { ok: true, home: realpathSync(home), java };
  return { ok: false, reason: 'Keycloak needs a Java runtime, 17 or newer (package default-jre-headless)' };
}

function javaIn({ JAVA_HOME, PATH = '' }: NodeJS.ProcessEnv): string | undefined {
  const folders = JAVA_HOME ? [join(JAVA_HOME, 'bin')] : PATH.split(delimiter);
  return folders.map((folder) => join(folder, 'java')).find((file) => existsSync(file));
}

export interface KeycloakServer {
  /** `http://127.0.0.1:PORT`; issuers begin with it. */
  readonly url: string;
  /** Of the Java process. */
  readonly pid: number;
  /** Stops it answering, as a machine that hangs does; `resume` ends that. */
  freeze(): void;
  resume(): void;
  /** Kills it; its data stay. */
  stop(): Promise<void>;
  /** Starts it again on the same port with the same data. */
  start(): Promise<void>;
}

/** Starts a server with its data below `folder`, which may hold those of before. Resolves when it serves. */
export async function startKeycloak(found: FoundKeycloak & { ok: true }, cache: string, folder: string) {
  const prepared = await prepare(found, cache);
  const home = join(folder, 'home');
  if (!existsSync(home)) {
    layOut(home, found.home, join(prepared, 'quarkus'));
    cpSync(join(prepared, 'h2'), join(home, 'data', 'h2'), { recursive: true });
  }
  const server = new RunningServer(found.java, home, folder, await freePorts(2));
  await server.start();
  return server satisfies KeycloakServer;
}

/** Links to the server's parts, and a data folder of its own. `quarkus`: the built part. */
function layOut(home: string, source: string, quarkus: string): void {
  mkdirSync(join(home, 'lib'), { recursive: true });
  mkdirSync(join(home, 'data'));
  for (const part of ['bin', 'conf', 'providers', 'themes']) {
    if (existsSync(join(source, part))) symlinkSync(join(source, part), join(home, part));
  }
  for (const part of ['app', 'lib', 'quarkus-run.jar']) symlinkSync(join(source, 'lib', part), join(home, 'lib', part));
  symlinkSync(quarkus, join(home, 'lib', 'quarkus'));
}

/**
 * A folder with `quarkus` (the server built for these options) and `h2` (a database with the realm master), made once for
 * each server and kept: a minute of work. Two that make it at once make it twice; the first counts.
 */
async function prepare({ home, java }: FoundKeycloak & { ok: true }, cache: string): Promise<string> {
  const version = readFileSync(join(home, 'version.txt'), 'utf8');
  const key = createHash('sha256')
    .update(JSON.stringify([home, version, buildOptions, 1]))
    .digest('hex')
    .slice(0, 12);
  const prepared = join(cache, `keycloak-ready-${key}`);
  if (existsSync(prepared)) return prepared;
  const work = `${prepared}.${process.pid}`;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const quarkus = join(work, 'quarkus');
  cpSync(join(home, 'lib', 'quarkus'), quarkus, { recursive: true });
  const place = join(work, 'home');
  layOut(place, home, quarkus);
  await run(java, [...argumentsOf(place), '-Dkc.config.build-and-exit=true', ...main, 'build', ...buildOptions], {
    timeout: buildLimitMs,
    maxBuffer: 16 * 2 ** 20,
  });
  const server = new RunningServer(java, place, work, await freePorts(2));
  await server.start();
  await server.stop('SIGTERM');
  renameSync(join(place, 'data', 'h2'), join(work, 'h2'));
  rmSync(place, { recursive: true });
  try {
    renameSync(work, prepared);
  } catch (error) {
    if (!existsSync(prepared)) throw error;
    rmSync(work, { recursive: true });
  }
  return prepared;
}

const main = ['io.quarkus.bootstrap.runner.QuarkusEntryPoint'];

/** What bin/kc.sh gives to Java. Without that script the process that is started is the server itself. */
function argumentsOf(home: string): string[] {
  const open = ['util', 'util.concurrent', 'security', 'lang'].map(
    (part) => `--add-opens=java.base/java.${part}=ALL-UNNAMED`,
  );
  const properties = {
    'file.encoding': 'UTF-8',
    'user.language': 'en',
    'user.country': 'US',
    'java.util.concurrent.ForkJoinPool.common.threadFactory':
      'io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory',
    'java.util.logging.manager': 'org.jboss.logmanager.LogManager',
    'kc.home.dir': home,
    'jboss.server.config.dir': join(home, 'conf'),
    'picocli.disable.closures': 'true',
  };
  return [
    ...javaOptions,
    ...open,
    ...Object.entries(properties).map(([name, value]) => `-D${name}=${value}`),
    ...['-cp', join(home, 'lib', 'quarkus-run.jar')],
  ];
}

/** Ends the server when the pipe to whoever started it closes, in whatever way that ended. Prints the server's id. */
const guard = '"$@" & child=$!; echo "$child"; cat > /dev/null; kill -KILL "$child" 2> /dev/null; wait';

class RunningServer implements KeycloakServer {
  readonly url: string;
  private readonly management: string;
  private readonly java: string;
  private readonly home: string;
  private readonly folder: string;
  private readonly ports: number[];
  private running: { pid: number; guard: ChildProcess; ended: boolean } | undefined;

  constructor(java: string, home: string, folder: string, ports: number[]) {
    this.java = java;
    this.home = home;
    this.folder = folder;
    this.ports = ports;
    this.url = `http://127.0.0.1:${ports[0]}`;
    this.management = `http://127.0.0.1:${ports[1]}`;
  }

  get pid(): number {
    if (!this.running) throw new Error('Keycloak does not run');
    return this.running.pid;
  }

  freeze(): void {
    process.kill(this.pid, 'SIGSTOP');
  }

  resume(): void {
    process.kill(this.pid, 'SIGCONT');
  }

  async start(): Promise<void> {
    if (this.running) throw new Error('Keycloak runs already');
    const [port, management] = this.ports;
    const options = [
      ...[
        '--http-enabled=true',
        '--http-host=127.0.0.1',
        `--http-port=${port}`,
        `--http-management-port=${management}`,
      ],
      ...[`--hostname=${this.url}`, '--cache=local', '--log-level=warn'],
    ];
    const logFile = join(this.folder, 'keycloak.log');
    const argv = [this.java, ...argumentsOf(this.home), ...main, 'start', '--optimized', ...options];
    const child = spawn('sh', ['-c', guard, 'keycloak', ...argv], {
      stdio: ['pipe', 'pipe', openSync(logFile, 'a', 0o600)],
      env: {
        ...process.env,
        KC_BOOTSTRAP_ADMIN_USERNAME: keycloakAdmin.username,
        KC_BOOTSTRAP_ADMIN_PASSWORD: keycloakAdmin.password,
      },
    });
    const pid = await new Promise<number>((done, failed) => {
      child.once('error', failed);
      child.stdout?.once('data', (line) => done(Number(String(line).split('\n', 1)[0])));
    });
    const running = { pid, guard: child, ended: false };
    this.running = running;
    child.once('exit', () => (running.ended = true));
    for (const handle of [child, child.stdin, child.stdout] as { unref?(): void }[]) handle?.unref?.();
    child.stdout?.on('data', () => undefined);
    await this.untilReady(logFile);
  }

  async stop(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    const { running } = this;
    if (!running) return;
    this.running = undefined;
    process.kill(running.pid, 'SIGCONT');
    process.kill(running.pid, signal);
    const deadline = Date.now() + 60_000;
    while (isThere(running.pid) && Date.now() < deadline) await sleep(50);
    running.guard.stdin?.end();
  }

  private async untilReady(logFile: string): Promise<void> {
    const deadline = Date.now() + startLimitMs;
    for (;;) {
      const answer = await fetch(`${this.management}/health/ready`, { signal: AbortSignal.timeout(5000) }).catch(
        () => undefined, // it does not listen yet
      );
      if (answer?.status === 200) return;
      const gone = !isThere(this.pid);
      if (gone || Date.now() > deadline) {
        await this.stop();
        throw new Error(`Keycloak ${gone ? 'ended' : 'does not serve'}: ${readFileSync(logFile, 'utf8').slice(-2000)}`);
      }
      await sleep(100);
    }
  }
}

/** Running, and no zombie that only waits for its parent. */
function isThere(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return false; // no such process
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  for (const server of servers) await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  for (const server of servers) await new Promise((done) => server.close(done));
  return ports;
}
