/** Where things lie in the data folder, who holds it, and how a file appears in it whole or not at all. */
import { createHash } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isRunning, type ProcessIdentity, processIdentity } from '#libs/devdb';

export interface DataFolder {
  root: string;
  config: string;
  devJson: string;
  pki: string;
  issuer: string;
  storage: string;
  agent: string;
  postgres: string;
  host: string;
  logs: string;
  ports: string;
  processes: string;
  /** Socket on which the node's agent reaches rhyzome-grpc; network namespaces do not part Unix sockets. */
  grpcSocket: string;
}

/** Makes the folder and says where everything in it lies. */
export function openDataFolder(root: string): DataFolder {
  // Others may pass, since PostgreSQL runs as another user; what is secret in it has a mode of its own.
  mkdirSync(root, { recursive: true, mode: 0o711 });
  const at = (name: string) => join(root, name);
  const folder = {
    root,
    config: at('rhyzome-api.json'),
    devJson: at('dev.json'),
    pki: at('pki'),
    issuer: at('issuer'),
    storage: at('storage'),
    agent: at('agent'),
    postgres: at('postgres'),
    host: at('host'),
    logs: at('logs'),
    ports: at('ports.json'),
    processes: at('processes.json'),
    grpcSocket: socketPath(at('grpc.sock')),
  };
  for (const made of [folder.storage, folder.agent, folder.logs]) mkdirSync(made, { recursive: true, mode: 0o700 });
  return folder;
}

/** The path, or one below /tmp where it is too long for a Unix socket (107 bytes, unix(7)). */
function socketPath(path: string): string {
  if (Buffer.byteLength(path) <= 107) return path;
  return join(tmpdir(), `rhyzome-${createHash('sha256').update(path).digest('hex').slice(0, 16)}.sock`);
}

/** Written aside with mode 0600, then renamed. */
export function writeWhole(file: string, content: unknown): void {
  const aside = `${file}.${process.pid}.new`;
  writeFileSync(aside, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 });
  renameSync(aside, file);
}

/** A JSON file of the folder; undefined when there is none. */
export function readJson<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new Error(`${file} cannot be read: ${(error as Error).message}`, { cause: error });
  }
}

/** Takes the folder for this process. Throws with who has it. Returns what gives it back. */
export function lockDataFolder(root: string): () => void {
  const file = join(root, 'lock.json');
  const self = processIdentity(process.pid);
  const aside = `${file}.${process.pid}.new`;
  writeFileSync(aside, JSON.stringify(self), { mode: 0o644 });
  try {
    for (;;) {
      try {
        // A link is made or it is not: two that start at once cannot both have it.
        linkSync(aside, file);
        return () => rmSync(file, { force: true });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const holder = readJson<ProcessIdentity>(file);
      if (holder && isRunning(holder))
        throw new Error(
          `npm start runs on ${root} already (process ${holder.pid}). Stop it, or take another folder: npm start -- --data DIR`,
        );
      rmSync(file, { force: true });
    }
  } finally {
    rmSync(aside, { force: true });
  }
}
