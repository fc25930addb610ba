/**
 * The thread of `Renewals`: runs one statement on a connection of its own, again and again, however busy the process is
 * otherwise. Runs as it stands, also from the source, and so imports nothing of ours.
 */
import { parentPort, workerData } from 'node:worker_threads';
import pg from 'pg';

export interface RenewalData {
  connection: pg.ClientConfig;
  /** Functions do not pass between threads: true where the name in the server's certificate does not count. */
  anyServerName: boolean;
  statement: string;
  everyMs: number;
  /** Without a word from the process for so long, it hangs, and what it holds is to go to others. */
  hungMs: number;
}

/** What the thread is told: the statement's parameters from now on; null: nothing to renew. */
export type RenewalOrder = unknown[] | null;

const { connection, anyServerName, statement, everyMs, hungMs } = workerData as RenewalData;
let parameters: RenewalOrder = null;
let toldAt = performance.now();
let client: pg.Client | undefined;
let isRunning = false;

async function connected(): Promise<pg.Client> {
  if (client) return client;
  const ssl = connection.ssl;
  const fresh = new pg.Client({
    ...connection,
    ...(anyServerName && typeof ssl === 'object' && { ssl: { ...ssl, checkServerIdentity: () => undefined } }),
  });
  fresh.on('error', () => {
    client = undefined;
  });
  await fresh.connect();
  client = fresh;
  return fresh;
}

async function renew(): Promise<void> {
  if (!parameters || isRunning || performance.now() - toldAt > hungMs) return;
  isRunning = true;
  try {
    await (await connected()).query(statement, parameters);
  } catch (error) {
    client?.end().catch(() => undefined); // it is broken already
    client = undefined;
    parentPort?.postMessage((error as Error).message);
  } finally {
    isRunning = false;
  }
}

parentPort?.on('message', (order: RenewalOrder) => {
  toldAt = performance.now();
  parameters = order;
});
setInterval(() => void renew(), everyMs);
