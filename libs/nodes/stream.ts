/**
 * One node's stream, as the replica that holds it sees it: sends what the node has not reached yet, takes its reports,
 * relays bytes. Level-triggered: it looks at the rows whenever somebody says so, and sends what differs from what it
 * sent last.
 */

import type * as grpc from '@grpc/grpc-js';
import { sql } from 'kysely';
import type { Database } from '#libs/db';
import { digestOf, type SignedRevocations } from '#libs/pki';
import type { KindRegistry } from '#libs/resources';
import {
  type Capacity,
  type ConnectRequest,
  type ConnectResponse,
  DeedOutcome,
  type Hello,
  type MetricsReport,
  messagesOf,
  type Observed,
  send,
} from '#libs/rpc';
import { recordDeedProgress } from './deed-progress.js';
import { InventoryTaking, inTurn, type Turn } from './inventory-taking.js';
import { newsOf } from './known-reports.js';
import { countFrom, smallCountFrom } from './node-words.js';
import { closeSession, holdsSession, type OpenedSession, takeBack } from './registry.js';
import { Relays } from './relays.js';
import { recordDeed, recordReport } from './reports.js';
import type { ToldRevocations } from './revocations.js';
import type { StreamLog } from './stream-log.js';
import type { Together } from './together.js';
import { type DeedRow, type DesiredRow, desiredRows } from './unreached.js';

type Call = grpc.ServerDuplexStream<ConnectRequest, ConnectResponse>;
type Body = NonNullable<ConnectResponse['body']>;

/** Characters of specs in one message, far below the largest message (libs/rpc); one spec alone may be larger. */
const BATCH_CHARACTERS = 512 * 1024;
/** Lists of revocations that an agent may hand back after each that it was told. */
const MOST_HANDED_BACK = 4;
/** What an item has beside its spec. */
const ITEM_CHARACTERS = 200;

export class NodeStream {
  readonly relays: Relays;
  /** What it has, and what of it nobody owns. */
  readonly inventory: InventoryTaking;
  /** Revision sent last, by resource. */
  private readonly sent = new Map<string, number>();
  private readonly askedDeeds = new Set<string>();
  /** Its inventory has been read: from now on it is told what is desired. */
  private isOpen = false;
  private hasSnapshot = false;
  private looking = false;
  private lookAgain = false;
  private ended = false;
  private metricsTaken: Promise<void> | undefined;
  private handedBack = 0;
  /** Until its agent has stopped what a fence took from the node, it is told what is desired, and nothing else. */
  private isReturning: boolean;

  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
    private readonly together: Together,
    readonly session: OpenedSession,
    readonly nodeName: string,
    private readonly call: Call,
    private readonly signal: AbortSignal,
    private readonly log: StreamLog,
    turn: Turn = inTurn(),
    private readonly revocations?: ToldRevocations,
  ) {
    this.relays = new Relays((body) => this.send(body));
    this.inventory = new InventoryTaking(db, session, nodeName, (body) => this.send(body), log, turn);
    this.isReturning = session.isReturning;
  }

  private send(body: Body): Promise<void> {
    return send(this.call, { body }, this.signal);
  }

  /** Sends all that is desired, then what changes; returns when the stream ends. */
  async run(hello: Hello): Promise<void> {
    try {
      if (!this.isReturning) {
        await this.reports(hello.inventory);
        if (this.ended || this.signal.aborted) return;
      }
      this.isOpen = true;
      await this.look();
      if (!this.isReturning) void this.inventory.compare(hello.inventory);
      for await (const message of messagesOf(this.call)) {
        if (this.ended) return;
        await this.take(message);
      }
    } finally {
      this.ended = true;
      this.relays.endAll();
      await closeSession(this.db, this.session);
    }
  }

  /** What was revoked, unless its agent has just said that it holds this very list. */
  async tellRevocations(held?: Uint8Array): Promise<void> {
    const current = this.revocations?.current;
    if (!current || (held && digestOf(current).equals(held))) return;
    this.handedBack = 0;
    await this.send({ $case: 'revocations', value: current });
  }

  /** Once for each list that it was told: its signature costs something to verify. */
  private async takeRevocations(known: SignedRevocations): Promise<void> {
    if (this.handedBack++ >= MOST_HANDED_BACK) return;
    await this.revocations?.takeOver(this.nodeName, known);
  }

  /** Ends the stream from this side, e.g. when a later one has taken over. */
  end(): void {
    this.ended = true;
    this.relays.endAll();
    this.call.end();
  }

  /** Ends it if the node is another stream's by now, or nobody's. */
  async endIfLost(): Promise<void> {
    if (!(await holdsSession(this.db, this.session))) this.end();
  }

  private async stopped(epoch: number): Promise<void> {
    if (!this.isReturning) return;
    if (!(await takeBack(this.db, this.session, epoch))) return this.end();
    this.isReturning = false;
    this.log.info(
      { node: this.nodeName, epoch },
      'a node that was fenced has stopped what is not its own, and is back',
    );
    await this.look();
  }

  private async take({ body }: ConnectRequest): Promise<void> {
    switch (body?.$case) {
      case 'report':
        return this.reports(body.value.items);
      case 'deedResult':
        // One whose outcome is unclear is sent again on an operator's word.
        if (body.value.outcome === DeedOutcome.DEED_OUTCOME_UNCLEAR) this.forgetAsked(body.value.operationId);
        return recordDeed(this.db, this.session, body.value);
      case 'deedProgress':
        return recordDeedProgress(this.db, this.session, body.value);
      case 'relayChunk':
        return this.relays.take(body.value);
      case 'stopped':
        return this.stopped(countFrom(body.value.epoch, 'The epoch'));
      case 'inventory':
        return this.inventory.take(body.value);
      case 'unownedOutcomes':
        return this.inventory.takeOutcomes(body.value.items);
      case 'metrics':
        return this.takeMetrics(body.value);
      case 'revocations':
        return this.takeRevocations(body.value);
      case 'heartbeat':
        return this.beat(body.value.capacity);
      default:
        this.log.warn({ node: this.nodeName, message: body?.$case }, 'a message that does not belong here');
    }
  }

  /** Nobody waits for it, but the next ones of this node. */
  private async takeMetrics(report: MetricsReport): Promise<void> {
    await this.metricsTaken;
    this.metricsTaken = this.together.metrics.record(this.session, report).catch((error: unknown) => {
      this.log.warn(
        { node: this.nodeName, err: error },
        'metrics could not be written down; others come within half a minute',
      );
    });
  }

  /** Nobody waits for it: what comes after a heartbeat is taken at once. */
  private beat(told: Capacity | undefined): void {
    const capacity = told && {
      vcpus: smallCountFrom(told.vcpus, 'The number of CPUs'),
      memoryMiB: countFrom(told.memoryMib, 'The memory'),
      diskGiB: countFrom(told.diskGib, 'The disk space'),
    };
    this.together.heartbeats
      .record({ session: this.session, capacity })
      .then((isOurs) => (isOurs ? this.send({ $case: 'acknowledge', value: {} }) : this.end()))
      .catch((error: unknown) => {
        // The agent dials again, here or at a replica that reaches the database.
        this.log.warn({ node: this.nodeName, err: error }, 'a heartbeat could not be written down');
        this.end();
      });
  }

  /** What a look of the hub at the rows alone does not find: it has not been told anything yet. */
  get isUntold(): boolean {
    return !this.hasSnapshot;
  }

  /** A node that comes back tells all that it has, twice: what the rows say already costs one statement. */
  private async reports(told: readonly Observed[]): Promise<void> {
    if (this.isReturning) return;
    const news = told.length > 1 ? await newsOf(this.db, this.session, told) : told;
    const { quietReports } = this.together;
    const quiet = news.map((observed) => ({ observed, isQuiet: quietReports.record(this.session, observed) }));
    // Somebody may wait for these, and not for what is gathered meanwhile.
    await this.reportAll(quiet.flatMap(({ observed, isQuiet }) => (isQuiet ? [] : [observed])));
    const areQuiet = await Promise.all(quiet.map(({ isQuiet }) => isQuiet));
    await this.reportAll(quiet.flatMap(({ observed }, n) => (areQuiet[n] === false ? [observed] : [])));
  }

  private async reportAll(news: readonly Observed[]): Promise<void> {
    for (const observed of news) {
      if (this.ended || this.signal.aborted) return;
      await this.report(observed);
    }
  }

  private async report(observed: Observed): Promise<void> {
    const isKnown = await recordReport(this.db, this.registry, this.session, observed);
    if (!isKnown) {
      const { ref } = observed;
      this.log.debug({ node: this.nodeName, kind: ref?.kind, resource: ref?.id }, 'a report that changes nothing');
    }
  }

  /** Nothing while a restored database has not been compared with the nodes (`rhyzome restore finish`). */
  private async sendSnapshot(): Promise<void> {
    const held = await sql<{ held: boolean }>`select nodes_are_held() as held`.execute(this.db.operator);
    if (held.rows[0]!.held) return;
    await this.sendDesired(await desiredRows(this.together.unreached, [this.session.nodeId], { onlyUnreached: false }));
    await this.send({ $case: 'desire', value: { items: [], snapshotEnd: true } });
    this.hasSnapshot = true;
  }

  /** Looks at the rows anew; calls that come meanwhile are one more look. */
  async look(): Promise<void> {
    if (this.looking || !this.isOpen) {
      this.lookAgain = true;
      return;
    }
    this.looking = true;
    try {
      do {
        this.lookAgain = false;
        if (!this.hasSnapshot) await this.sendSnapshot();
        // One that was fenced first says what it has stopped.
        if (!this.hasSnapshot || this.isReturning) continue;
        const { placements, deeds } = await this.together.unreached.of(this.session.nodeId);
        await this.sendDesired(placements.filter((row) => (this.sent.get(row.resource_id) ?? 0) < row.revision));
        await this.sendDeeds(deeds);
      } while (this.lookAgain && !this.ended);
    } finally {
      this.looking = false;
    }
  }

  /** In messages of bounded size, whatever the specs are. */
  private async sendDesired(rows: DesiredRow[]): Promise<void> {
    let batch: { row: DesiredRow; specJson: string }[] = [];
    let characters = 0;
    for (const row of rows) {
      const specJson = row.spec === null ? '' : JSON.stringify(row.spec);
      if (batch.length > 0 && characters + specJson.length > BATCH_CHARACTERS) {
        await this.sendBatch(batch);
        [batch, characters] = [[], 0];
      }
      batch.push({ row, specJson });
      characters += specJson.length + ITEM_CHARACTERS;
    }
    if (batch.length > 0) await this.sendBatch(batch);
  }

  private async sendBatch(batch: { row: DesiredRow; specJson: string }[]): Promise<void> {
    const items = batch.map(({ row, specJson }) => ({
      ref: { tenantId: row.tenant_id, kind: row.kind, id: row.resource_id },
      revision: BigInt(row.revision),
      generation: BigInt(row.generation),
      present: row.present,
      specJson,
    }));
    await this.send({ $case: 'desire', value: { items, snapshotEnd: false } });
    for (const { row } of batch) this.sent.set(row.resource_id, row.revision);
  }

  private forgetAsked(operationId: string): void {
    for (const key of this.askedDeeds) if (key.startsWith(`${operationId}/true/`)) this.askedDeeds.delete(key);
  }

  private async sendDeeds(deeds: readonly DeedRow[]): Promise<void> {
    for (const deed of deeds) {
      // Sent again: one that was resolved as “redo” and is repeatable from then on, and one that is to go elsewhere.
      const key = `${deed.id}/${deed.repeatable}/${JSON.stringify(deed.arguments)}`;
      if (this.askedDeeds.has(key)) continue;
      this.askedDeeds.add(key);
      await this.send({
        $case: 'deed',
        value: {
          operationId: deed.id,
          ref: { tenantId: deed.tenant_id, kind: deed.kind, id: deed.resource_id },
          verb: deed.verb,
          argumentsJson: JSON.stringify(deed.arguments),
          repeatable: deed.repeatable,
        },
      });
    }
  }
}
