/**
 * A node as the controller sees it, without a stream: reads what is desired from the rows and reports through the same
 * code as a real stream. Tests tell it to be slow, away, or unable.
 */

import { sql } from 'kysely';
import { newId } from '#libs/core';
import type { Database, Listener } from '#libs/db';
import { type NodeSession, openSession, recordDeed, recordReport, takeBack } from '#libs/nodes';
import type { KindRegistry } from '#libs/resources';
import { DeedOutcome, Phase } from '#libs/rpc';

interface DesiredRow {
  tenant_id: string;
  resource_id: string;
  kind: string;
  revision: number;
  generation: number;
  present: boolean;
  spec: {
    powerState?: string;
    name?: string;
    sizeBytes?: number;
    diskId?: string;
    image?: object | null;
    snapshot?: object | null;
  } | null;
}

export class ObedientNode {
  readonly name = `node-${newId().slice(-8)}`;
  id = '';
  private session: NodeSession | undefined;
  /** Away: it hears and says nothing. */
  isAway = false;
  /** What it refuses: the failure for a resource, or undefined to obey. */
  refuse: (row: DesiredRow) => { code: string; message: string } | undefined = () => undefined;
  /** What it has not come to yet. */
  isStillAt: (row: DesiredRow) => boolean = () => false;
  /** What it says of a resource where that is not the truth; undefined: the truth. */
  lie: (row: DesiredRow) => object | undefined = () => undefined;
  /** What stands on it. */
  readonly machine = new Map<string, DesiredRow>();
  /** Deeds that it did, by verb. */
  readonly deeds: string[] = [];
  private working: Promise<void> = Promise.resolve();
  private readonly off: () => void;
  private readonly timer: NodeJS.Timeout;

  constructor(
    private readonly db: Database,
    listener: Listener,
    private readonly registry: KindRegistry,
  ) {
    this.off = listener.on('rhyzome_node', () => this.look());
    this.timer = setInterval(() => this.look(), 1_000);
  }

  /** Dials in, for the first time or again; after a fence it has stopped all at once. */
  async register(): Promise<void> {
    const session = await openSession(
      this.db,
      {
        name: this.name,
        driver: 'obedient',
        agentVersion: '0',
        kinds: ['network', 'disk', 'snapshot', 'instance'],
        labels: {},
        vcpus: 10_000,
        memoryMiB: 10_000_000,
        diskGiB: 1_000_000,
        migrationAddress: '127.0.0.1:1',
      },
      '127.0.0.1:1',
    );
    if (session.isReturning) await takeBack(this.db, session, session.epoch);
    this.session = session;
    this.id = session.nodeId;
  }

  /** Obeys now; resolves when all that was desired has been reported. */
  look(): Promise<void> {
    // Tests take the database away: like an agent, it looks again, and what it did not reach shows in the rows.
    this.working = this.working.then(() => this.obey()).catch(() => undefined);
    return this.working;
  }

  private async obey(): Promise<void> {
    if (this.isAway) return;
    await this.beSeen();
    const rows = await sql<DesiredRow>`
      select tenant_id, resource_id, kind, revision, generation, present, spec from placement
      where node_id = ${this.id} and observed_revision < revision order by created_at`.execute(this.db.operator);
    for (const row of rows.rows) if (!this.isStillAt(row)) await this.make(row);
    const deeds = await sql<{ id: string; verb: string }>`
      select id, verb from deed where node_id = ${this.id} and state = 'asked'`.execute(this.db.operator);
    for (const deed of deeds.rows) {
      this.deeds.push(deed.verb);
      await recordDeed(this.db, this.session!, {
        operationId: deed.id,
        outcome: DeedOutcome.DEED_OUTCOME_DONE,
        failure: undefined,
        resultJson: '',
      });
    }
  }

  /** Its heartbeat, for suites that last longer than a node may be silent. */
  private async beSeen(): Promise<void> {
    await sql`update node set last_seen_at = now() where id = ${this.id}
      and last_seen_at between now() - interval '60 seconds' and now() - interval '5 seconds'`.execute(
      this.db.operator,
    );
  }

  private async make(row: DesiredRow): Promise<void> {
    const failure = row.present ? (this.refuse(row) ?? impossible(row)) : undefined;
    if (!failure) {
      if (row.present) this.machine.set(row.resource_id, row);
      else this.machine.delete(row.resource_id);
    }
    const ready = row.present ? Phase.PHASE_READY : Phase.PHASE_ABSENT;
    await this.report(row, failure ? Phase.PHASE_FAILED : ready, this.lie(row) ?? this.statusOf(row), failure);
  }

  private statusOf({ kind, spec }: DesiredRow): object {
    if (kind === 'instance' && spec) return { powerState: spec.powerState };
    if (kind === 'disk' && spec) return { sizeBytes: spec.sizeBytes };
    if (kind !== 'snapshot' || !spec) return {};
    return { sizeBytes: 4096, virtualSizeBytes: this.machine.get(spec.diskId!)?.spec?.sizeBytes };
  }

  /** Says that a guest is in this state now, as after it shut itself down. */
  async guestIs(resourceId: string, powerState: string): Promise<void> {
    await this.says(resourceId, { powerState });
  }

  /** Says this of something that stands on it. */
  async says(resourceId: string, status: object): Promise<void> {
    const row = this.machine.get(resourceId);
    if (!row) throw new Error('no such machine');
    await this.report(row, Phase.PHASE_READY, status);
  }

  private async report(
    row: DesiredRow,
    phase: Phase,
    status: object,
    failure?: { code: string; message: string },
  ): Promise<void> {
    await recordReport(this.db, this.registry, this.session!, {
      ref: { tenantId: row.tenant_id, kind: row.kind, id: row.resource_id },
      revision: BigInt(row.revision),
      generation: BigInt(row.generation),
      phase,
      statusJson: JSON.stringify(status),
      failure,
      observedAt: new Date(),
    });
  }

  async close(): Promise<void> {
    this.off();
    clearInterval(this.timer);
    await this.working;
  }
}

/** What every driver refuses. */
function impossible({ kind, spec }: DesiredRow): { code: string; message: string } | undefined {
  if (kind !== 'disk' || !spec?.image || !spec.snapshot) return undefined;
  return { code: 'invalid_spec', message: 'The disk is made from two things.' };
}
