/**
 * Users of a tenant who do this and that, as their chance has it, with what few things they share: they get in each other's
 * way. Each asks as a careful program does: what was cut or answered 503 is asked for again, with the same key.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Chance } from './chance.js';
import type { Answer } from './client.js';
import type { SteadyClient } from './steady-client.js';

const networks = ['red', 'blue'];
const machines = ['one', 'two', 'three', 'four', 'five', 'six'];
const disks = ['data', 'logs'];
const PAUSE_MS = 20;
const AGAIN_MS = 200;
/** As long as the longest trouble, and long enough for what follows it. */
const PATIENCE_MS = 120_000;

/** What the users of a tenant were told, for the comparison afterwards. */
export interface Told {
  statuses: Map<number, number>;
  /** Request ids of changes that were accepted, with the id of the job. */
  accepted: Map<string, string>;
  /** Answers that nobody should ever get. */
  wrong: string[];
}

export function nothingTold(): Told {
  return { statuses: new Map(), accepted: new Map(), wrong: [] };
}

export class ChaosUser {
  private count = 0;

  constructor(
    private readonly name: string,
    private readonly client: SteadyClient,
    private readonly chance: Chance,
    private readonly told: Told,
  ) {}

  /** Does this and that until it is over. */
  async run(isOver: () => boolean): Promise<void> {
    while (!isOver()) {
      await this.anything();
      await sleep(PAUSE_MS);
    }
    this.client.close();
  }

  private anything(): Promise<unknown> {
    const { chance } = this;
    const [network, machine, disk] = [chance.pick(networks), chance.pick(machines), chance.pick(disks)];
    const at = `/v1/instances/${machine}`;
    const tags = { at: String(chance.whole(1, 1e6)) };
    const create = () => {
      const interfaces = [{ network }];
      return this.change('POST', '/v1/instances', {
        name: machine,
        image: 'tiny',
        vcpus: 1,
        memoryMiB: 64,
        interfaces,
      });
    };
    const remove = () => this.change('DELETE', at);
    const ways: (() => Promise<unknown>)[] = [
      () => this.change('POST', '/v1/networks', { name: network, subnet: '10.150.0.0/29' }),
      () => this.change('DELETE', `/v1/networks/${network}`),
      () => this.change('PATCH', `/v1/networks/${network}`, { tags }),
      () => this.change('PATCH', at, { desiredPowerState: chance.pick(['running', 'stopped']), tags }),
      () => this.change('POST', `${at}/${chance.pick(['start', 'stop', 'reboot'])}`, {}),
      () => this.change('POST', '/v1/disks', { name: disk, sizeGiB: 1 }),
      () => this.change('PATCH', `/v1/disks/${disk}`, { tags }),
      () => this.change('DELETE', `/v1/disks/${disk}`),
      () => this.changeJob(),
      () => this.ask('GET', '/v1/instances?pageSize=50'),
      ...[create, create, create, create, remove, remove],
    ];
    return chance.pick(ways)();
  }

  private async changeJob(): Promise<void> {
    const { body } = await this.ask('GET', '/v1/jobs?sort=-createdAt&pageSize=5');
    const jobs = (body?.items ?? []) as { id: string }[];
    if (jobs.length === 0) return;
    await this.change('POST', `/v1/jobs/${this.chance.pick(jobs).id}/${this.chance.pick(['cancel', 'retry'])}`, {});
  }

  private async change(method: string, path: string, json?: object): Promise<void> {
    this.count += 1;
    const id = `${this.name}-${this.count}`;
    const answer = await this.ask(method, path, json, { 'idempotency-key': id, 'x-request-id': id });
    const job = answer.body?.job?.id ?? (path.startsWith('/v1/jobs/') ? answer.body?.id : undefined);
    if (answer.status === 202 && job) this.told.accepted.set(id, job);
  }

  /** The answer, in the end. */
  private async ask(
    method: string,
    path: string,
    json?: object,
    headers: Record<string, string> = {},
  ): Promise<Answer> {
    for (const end = Date.now() + PATIENCE_MS; ; await sleep(AGAIN_MS)) {
      const answer = await this.client.ask(method, path, json, headers).catch((error: Error) => error);
      if (!(answer instanceof Error)) this.note(method, path, answer);
      const isAgain =
        answer instanceof Error || answer.status === 503 || answer.body?.code === 'idempotency_in_progress';
      if (!isAgain) return answer;
      if (Date.now() < end) continue;
      throw new Error(`${method} ${path}: no answer for ${PATIENCE_MS} ms`, { cause: answer });
    }
  }

  private note(method: string, path: string, { status, text, body }: Answer): void {
    const { statuses, wrong } = this.told;
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    const isProblem = typeof body?.code === 'string' && body.status === status;
    if ((status >= 500 && status !== 503) || (status >= 400 && !isProblem)) {
      wrong.push(`${method} ${path}: ${status} ${text}`);
    }
  }
}
