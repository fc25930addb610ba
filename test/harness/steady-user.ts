/** A user who makes, changes and removes things of their own, one after the other, and to whom nothing may go wrong. */
import type { Answer } from './client.js';
import { SteadyClient, type Tally } from './steady-client.js';

export class SteadyUser {
  readonly client: SteadyClient;
  /** Answers that nobody should have got. */
  private readonly unexpected: string[] = [];

  constructor(
    private readonly n: number,
    bases: () => readonly string[],
    token: string,
    tally: Tally,
    isToAskAgain?: (answer: Answer) => boolean,
  ) {
    this.client = new SteadyClient(bases, token, tally, n, isToAskAgain);
  }

  /** Until it is over; gives what went wrong. */
  async run(isOver: () => boolean): Promise<string[]> {
    const { n } = this;
    for (let turn = 0; !isOver(); turn += 1) {
      const name = `steady-${n}-${turn}`;
      await this.change('POST', '/v1/networks', { name, subnet: `10.${60 + n}.${turn % 250}.0/29` });
      const machine = { name, image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: name }] };
      await this.change('POST', '/v1/instances', machine);
      await this.ask('GET', `/v1/instances/${name}`);
      await this.change('PATCH', `/v1/instances/${name}`, { tags: { turn: String(turn) } });
      await this.change('DELETE', `/v1/instances/${name}`);
      await this.change('DELETE', `/v1/networks/${name}`);
    }
    this.client.close();
    return this.unexpected;
  }

  private async ask(method: string, path: string, json?: object): Promise<any> {
    const { status, text, body } = await this.client.ask(method, path, json);
    if (status >= 300) this.unexpected.push(`${method} ${path}: ${status} ${text}`);
    return body;
  }

  /** Until its job has ended. */
  private async change(method: string, path: string, json?: object): Promise<void> {
    let { job } = await this.ask(method, `${path}?wait=10s`, json);
    while (job && job.state !== 'succeeded') {
      job = await this.ask('GET', `/v1/jobs/${job.id}?wait=10s`);
      if (job.state !== 'succeeded' && job.finishedAt) {
        this.unexpected.push(`${method} ${path}: ${JSON.stringify(job)}`);
        return;
      }
    }
  }
}
