/**
 * The serial line of a simulated guest: echoes what is typed as a terminal does and answers like the shell of the tiny
 * guest, as far as `echo`, `hostname` and `poweroff` go.
 */
import type { ConsoleLine } from '#libs/drivers/contract';

const prompt = 'sim# ';
/** Unread output beyond this is dropped, oldest first, as a terminal without flow control does. */
const maxUnreadBytes = 256 * 1024;

export interface SimConsoleParts {
  hostname: string;
  onPowerOff(): Promise<void>;
  onClose(): void;
}

export class SimConsole implements ConsoleLine {
  private unread: Buffer[] = [];
  private unreadBytes = 0;
  private typed = '';
  private closed = false;
  private wake = () => {};

  constructor(private readonly parts: SimConsoleParts) {
    this.print(`\r\n${prompt}`);
  }

  get output(): AsyncIterable<Uint8Array> {
    return this.read();
  }

  async write(data: Uint8Array): Promise<void> {
    for (const character of Buffer.from(data).toString('utf8')) {
      if (this.closed) return;
      if (character === '\r' || character === '\n') await this.enter();
      else if (character === '\x7f') this.typed = this.typed.slice(0, -1);
      else if (this.typed.length < 4096) {
        this.typed += character;
        this.print(character);
      }
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.wake();
    this.parts.onClose();
  }

  private async enter(): Promise<void> {
    const [command = '', ...words] = this.typed.trim().split(/\s+/);
    this.typed = '';
    this.print('\r\n');
    if (command === 'poweroff') return this.parts.onPowerOff();
    if (command === 'echo') this.print(`${words.join(' ')}\r\n`);
    else if (command === 'hostname') this.print(`${this.parts.hostname}\r\n`);
    else if (command !== '') this.print(`sh: ${command}: not found\r\n`);
    this.print(prompt);
  }

  private print(text: string): void {
    const data = Buffer.from(text);
    this.unread.push(data);
    this.unreadBytes += data.length;
    while (this.unreadBytes > maxUnreadBytes) this.unreadBytes -= this.unread.shift()?.length ?? 0;
    this.wake();
  }

  private async *read(): AsyncGenerator<Uint8Array> {
    for (;;) {
      if (this.unread.length > 0) {
        const data = Buffer.concat(this.unread);
        this.unread = [];
        this.unreadBytes = 0;
        yield data;
      } else if (this.closed) return;
      else await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }
}
