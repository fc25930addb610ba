/**
 * Tells whoever is on the uplink's link that public addresses are here now, by ARP announcements (RFC 5227 §3): a router
 * that found them at another node until now goes on sending there until its entry expires, minutes maybe. Told once more
 * a little later, since a frame may be lost, and the node that had them may have answered for the last time meanwhile.
 */
import type { DriverLog } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { addressNumber } from './addresses.js';
import { findLink } from './links.js';

/** ANNOUNCE_INTERVAL of RFC 5227 §1.1. */
const againMs = 2_000;

/** An ARP announcement as it is on an Ethernet (RFC 826): a request of the address for itself, to all. */
export function arpAnnouncement(mac: string, address: string): Buffer {
  const own = Buffer.from(mac.replaceAll(':', ''), 'hex');
  const ip = Buffer.alloc(4);
  ip.writeUInt32BE(addressNumber(address, 'address'));
  const everyone = Buffer.alloc(6, 0xff);
  // ARP, then: Ethernet, IPv4, their lengths, request.
  const head = Buffer.from([0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x01]);
  return Buffer.concat([everyone, own, head, own, ip, Buffer.alloc(6), ip]);
}

const frameBytes = 42;

export class Announcer {
  /** By network, what this process has told of. An agent that starts tells all of it again, which harms nobody. */
  private readonly told = new Map<string, ReadonlySet<string>>();

  constructor(
    private readonly runner: Runner,
    private readonly log: DriverLog,
  ) {}

  /** Tells of those that are new since the last time. The addresses must work here already. */
  async tell(networkId: string, link: string, addresses: readonly string[]): Promise<void> {
    const before = this.told.get(networkId);
    const fresh = addresses.filter((address) => !before?.has(address));
    this.told.set(networkId, new Set(addresses));
    if (fresh.length === 0) return;
    if (!(await this.send(link, fresh))) return this.forget(networkId);
    const again = async () => {
      const still = fresh.filter((address) => this.told.get(networkId)?.has(address));
      if (still.length > 0) await this.send(link, still);
    };
    setTimeout(() => void again(), againMs).unref();
  }

  /** They are not here any more. */
  forget(networkId: string): void {
    this.told.delete(networkId);
  }

  /** False: nobody was told. The network works all the same, and is told of again when it is applied the next time. */
  private async send(link: string, addresses: readonly string[]): Promise<boolean> {
    try {
      const found = await findLink(this.runner, link);
      // On a link without ARP nobody remembers where an address was.
      if (!found?.address || found.link_type !== 'ether') return true;
      const { address: mac } = found;
      const input = Buffer.concat(addresses.map((address) => arpAnnouncement(mac, address)));
      await this.runner.run(['socat', '-u', '-b', String(frameBytes), '-', `INTERFACE:${link}`], { input });
      return true;
    } catch (error) {
      this.log.warn(
        { err: error, link, addresses },
        'neighbours on the uplink were not told where public addresses are',
      );
      return false;
    }
  }
}
