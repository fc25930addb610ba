/** A tiny guest as somebody at its serial line uses it: types a command, reads what it prints. */
import { type Client } from './client.js';
import { ConsoleClient } from './console.js';
import type { Stack } from './stack.js';
import { until } from './until.js';

export class Guest {
  private count = 0;

  private constructor(private readonly console: ConsoleClient) {}

  /** Attaches to the console of a machine that has booted. */
  static async at(stack: Stack, api: Client, instance: string): Promise<Guest> {
    const guest = new Guest(await ConsoleClient.attach(stack.dev.api, api.token, instance));
    await until('the keyboard', () => guest.console.keyboard.at(-1) === true, 20_000);
    return guest;
  }

  /** Runs one line and gives what it printed, and its exit status on the last line. Throws after `limitMs`. */
  async run(line: string, limitMs = 30_000): Promise<string> {
    const mark = `done-${++this.count}`;
    const from = this.console.text.length;
    // The mark is put together by the guest, so that its own echo is not taken for it.
    this.console.type(`${line}; echo "<$?>"'${mark.slice(0, 2)}''${mark.slice(2)}'\n`);
    const pattern = new RegExp(`<(\\d+)>${mark}`);
    await until(`“${line}” in the guest`, () => pattern.test(this.console.text.slice(from)), limitMs, 100);
    const text = this.console.text.slice(from).replaceAll('\r', '');
    const [printed = ''] = text.slice(text.indexOf('\n') + 1).split(pattern);
    return printed.trim();
  }

  close(): void {
    this.console.close();
  }
}

/** Until the guest has come up so many times, by its serial log. */
export async function booted(api: Client, name: string, times = 1): Promise<void> {
  await until(
    `boot ${times} of ${name}`,
    async () => (await api.get(`/v1/instances/${name}/console`)).text.split('tiny: ready').length > times,
    120_000,
    300,
  );
}
