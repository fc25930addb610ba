/**
 * The sweep's side of one node's stream: asks the agent what it has, has it compared with the rows, and asks for the removal
 * of what is due. Beside the stream's other work: what fails here is logged, and the next inventory tries again.
 */
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import type { ConnectResponse, Inventory, Observed, UnownedOutcome } from '#libs/rpc';
import { type Findings, recordInventory } from './inventory.js';
import type { NodeSession } from './registry.js';
import type { StreamLog } from './stream-log.js';
import { chooseUnowned, recordUnowned } from './sweep.js';

type Body = NonNullable<ConnectResponse['body']>;

/** Runs work when its turn comes. */
export type Turn = <T>(work: () => Promise<T>) => Promise<T>;

/** One after the other: a thousand nodes that connect at once must not have all of the database's connections. */
export function inTurn(): Turn {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const mine = last.then(work);
    last = mine.catch(() => undefined); // Whoever asked for it hears of it.
    return mine;
  };
}

export const MAX_INVENTORY = 100_000;
/** An agent that does not answer is asked again after that. */
const ANSWER_MS = 10 * 60_000;

export class InventoryTaking {
  /** Of the last inventory. */
  findings: Findings = { orphans: 0, missing: 0 };
  private askedAt: number | undefined;
  private parts: Observed[] = [];
  private comparing: Promise<void> = Promise.resolve();

  constructor(
    private readonly db: Database,
    private readonly session: NodeSession,
    private readonly nodeName: string,
    private readonly send: (body: Body) => Promise<void>,
    private readonly log: StreamLog,
    private readonly turn: Turn,
  ) {}

  /** Asks for an inventory, unless one is under way. */
  async ask(): Promise<void> {
    if (this.askedAt !== undefined && Date.now() - this.askedAt < ANSWER_MS) return;
    this.askedAt = Date.now();
    this.parts = [];
    await this.send({ $case: 'tellInventory', value: {} });
  }

  /** A part of an inventory. Throws RhyzomeError `malformed_request` when it is longer than any can be. */
  async take({ items, end }: Inventory): Promise<void> {
    if (this.askedAt === undefined) return;
    if (this.parts.length + items.length > MAX_INVENTORY)
      throw new RhyzomeError('malformed_request', `The inventory has more than ${MAX_INVENTORY} items.`);
    this.parts.push(...items);
    if (!end) return;
    const whole = this.parts;
    this.parts = [];
    this.askedAt = undefined;
    void this.compare(whole);
  }

  /** Compares and asks for what is due; one inventory after the other. */
  compare(inventory: readonly Observed[]): Promise<void> {
    this.comparing = this.comparing
      .then(async () => {
        const findings = await this.turn(() => recordInventory(this.db, this.session, inventory));
        if (!findings) return;
        this.findings = findings;
        if (findings.orphans > 0) await this.removeDue();
      })
      .catch((error: unknown) => {
        this.log.warn({ node: this.nodeName, err: error }, 'an inventory could not be compared; the next one is');
      });
    return this.comparing;
  }

  private async removeDue(): Promise<void> {
    const items = await chooseUnowned(this.db, this.session);
    if (items.length === 0) return;
    this.log.info({ node: this.nodeName, items }, 'what nobody owns is removed from a node');
    await this.send({ $case: 'removeUnowned', value: { items } });
  }

  async takeOutcomes(outcomes: readonly UnownedOutcome[]): Promise<void> {
    for (const outcome of outcomes) await recordUnowned(this.db, this.session, outcome);
  }
}
