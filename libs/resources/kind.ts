/**
 * What a kind is to the rest: its manifest, and the class that implements Resource for it. Everything that REST, gRPC,
 * OpenAPI and jobs need to know of a kind stands here; none of them names a kind.
 */

import type { CompiledQuery, RawBuilder } from 'kysely';
import type { Actor } from '#libs/auth';
import type { FieldError, Job, JobStep, Resource, ResourceCore, Tags } from '#libs/core';
import { RhyzomeError, Waiting } from '#libs/core';
import type { Database, DB, Tx } from '#libs/db';
import type { JobOutcome } from '#libs/jobs';

export type { Job, JobStep };
export { RhyzomeError, Waiting };

/** The columns that every resource has. */
export interface CoreRow {
  tenant_id: string;
  id: string;
  kind: string;
  name: string;
  tags: Tags;
  state: string;
  conditions: unknown[];
  generation: number;
  observed_generation: number;
  deletion_protection: boolean;
  version: number;
  created_at: Date;
  updated_at: Date;
  created_by: string;
}

/** What a user may set of any resource. */
export interface CoreDocument {
  name: string;
  tags?: Tags;
  deletionProtection?: boolean;
}

/** How a resource object reaches its rows: inside somebody's transaction, or each query for itself. */
export interface RowScope {
  readonly tenantId: string;
  /** Who asks, in the transaction of a request; absent where a job works. */
  readonly actor?: Actor;
  readonly builder: Database['builder'];
  rows<Row>(query: CompiledQuery<Row>): Promise<Row[]>;
}

export function inTransaction(tx: Tx, tenantId: string, actor?: Actor): RowScope {
  return {
    tenantId,
    ...(actor && { actor }),
    builder: tx as unknown as Database['builder'],
    rows: async (query) => (await tx.executeQuery(query)).rows,
  };
}

export function perQuery(db: Database, tenantId: string, actor?: Actor): RowScope {
  return { tenantId, ...(actor && { actor }), builder: db.builder, rows: (query) => db.tenantRead(tenantId, query) };
}

/** Why `claim` is called. */
export type Claim<Document> =
  | { action: 'create'; isRetry: boolean }
  | { action: 'update'; previous: Document; isRestore: boolean };

/**
 * A kind's resource. `Document` is what its user may set, flat: the create DTO's shape with defaults filled in. The
 * object is made empty, then either loaded or given a proposal.
 */
export interface KindResource<Document extends CoreDocument = CoreDocument> extends Resource<Tx> {
  /** Takes on what a user asks for; `core` is new or loaded. */
  propose(core: ResourceCore, document: Document): void;
  /** What the user has set, as it stands. */
  document(): Document;
  /**
   * Writes the kind's own rows and takes all that the database alone can decide: addresses, capacity, dependency edges.
   * Throws RhyzomeError (409) on a conflict; the transaction rolls back then.
   */
  claim(tx: Tx, claim: Claim<Document>): Promise<void>;
  /**
   * What only the one who creates it is told, in the answer to the create: asked after the claim, and stored neither with
   * the answer nor in events, jobs or audit. Its members stand in the DTO class `dto.secrets`. The same after the claim of
   * an action that has `secrets`.
   */
  secrets?(): Record<string, unknown> | undefined;
  /** Gives back all that was claimed; the resource's own row goes right after. */
  release(tx: Tx): Promise<void>;
  /** In the transaction that ends a job other than by release. */
  settled?(tx: Tx, action: string, outcome: JobOutcome): Promise<void>;
  /**
   * In the request that cancels a job, on the resource as it is now: throws RhyzomeError `forbidden` where whoever asks may
   * not give back what was (`previous`: of an update). Absent: who may do it may undo it.
   */
  refuseUndoing?(tx: Tx, action: string, previous: Document | undefined): Promise<void>;
  /** The work of an action that is not just an update. */
  perform?(action: string, job: Job<Tx>): Promise<void>;
}

export interface ActionDefinition {
  summary: string;
  /** Class of the body; absent: an empty object. */
  dto?: new () => object;
  /** What the resource's `secrets` adds to the answer; absent: the action tells nothing. */
  secrets?: new () => object;
  /**
   * In the request's transaction, on the loaded resource. Returns the changed document if the action is a change of it
   * (the job then runs `update`), else undefined (the job runs `perform`). `isRetry`: its failed job is tried again, whose
   * rows are there; nobody hears a secret.
   */
  claim(
    resource: KindResource<any>,
    tx: Tx,
    body: any,
    options: { isRetry: boolean },
  ): Promise<CoreDocument | undefined>;
}

type DtoClass = new () => object;

export interface FilterDefinition {
  /** The column that is compared, e.g. sql.ref('k.node_id'); its migration calls filter_by for it. */
  column: RawBuilder<unknown>;
  type: 'text' | 'uuid' | 'integer' | 'boolean' | 'cidr';
  description: string;
}

/** The spec of a placement that is put together when it is sent (KindDefinition.compose): what stands here changes with it. */
export interface Composed {
  composed: string;
}

export interface PlacementReport {
  resourceId: string;
  nodeId: string;
  /** Of the desired state that it is about, and what is desired now. */
  isCurrent: boolean;
  phase: 'progressing' | 'ready' | 'absent' | 'failed';
  status: Record<string, unknown> | null;
  failure: { code: string; message: string } | null;
}

export type FollowUp = (tx: Tx) => Promise<void>;

export interface KindDefinition<Row extends CoreRow = any> {
  /** Singular, e.g. `network`. */
  name: string;
  plural: string;
  /** One sentence for the reference. */
  description: string;
  dto: {
    create: DtoClass;
    update: DtoClass;
    view: DtoClass;
    /** What `secrets` adds to the answer to a create. */
    secrets?: DtoClass;
  };
  /** Its own table, joined to `resource` as `k`. */
  table: keyof DB & string;
  columns: readonly string[];
  /** Further selections by alias, over `r` and `k`. */
  selections?: Record<string, RawBuilder<unknown>>;
  /** Fields of its own that answers have and bodies must not. */
  readOnly?: readonly string[];
  /** Fields that only a create may set. */
  immutable?: readonly string[];
  /** Its own part of the answer. */
  view(row: Row): Record<string, unknown>;
  /** Fields whose values stand in the audit, before and after; of others only that they changed. Never what is secret. */
  audited?: readonly string[];
  filters?: Record<string, FilterDefinition>;
  /** The system tenant's rows are seen by all, and those that a tenant publishes (resource.published). */
  isShared?: boolean;
  /** Fields of its own that tell of the tenant's other things: null for those who see it because it is shared. */
  unshared?: readonly string[];
  /** What users can do beside reading; default: create, update, delete. */
  changes?: readonly ('create' | 'update' | 'delete')[];
  /** The administrator at the shell changes it, who has no routes; `changes` is what users can do all the same. */
  administered?: boolean;
  make(scope: RowScope): KindResource<any>;
  actions?: Record<string, ActionDefinition>;
  /** Permissions are decided on it: who has changed one finds the change in force on the same server at once. */
  decidesAccess?: boolean;
  /** Further verbs that its own controllers ask permission for, beside its actions. */
  verbs?: readonly string[];
  /** Writes anew what nodes should make of one of its resources, as its rows stand in the transaction. */
  refresh?(tx: Tx, tenantId: string, id: string): Promise<void>;
  /**
   * What a removal means from the request on, before its job has done anything: in the transaction that accepts it, after
   * all else that stands against it was looked at. Throws RhyzomeError to refuse it. `settled` takes it back where the
   * removal is cancelled. `actor`: who asks; absent for the command.
   */
  leaving?(tx: Tx, core: ResourceCore, actor: Actor | undefined): Promise<void>;
  /** What falls due by itself (expiries), done now and then by one rhyzome-grpc at a time; repeatable at any moment. */
  upkeep?(db: Database, signal: AbortSignal): Promise<void>;
  /**
   * A node has connected, was fenced or is back: writes anew what the other nodes are told of it. Repeatable; `upkeep` does
   * what did not come to its end.
   */
  nodeChanged?(db: Database, nodeId: string): Promise<void>;
  /**
   * A node reported about one of its resources, which is locked. In the tenant's scope. What has to lock other resources
   * is returned, and done in a transaction of its own right after.
   */
  observed?(tx: Tx, tenantId: string, report: PlacementReport): Promise<FollowUp | void>;
  /**
   * The specs that these nodes are told of one of its resources now, for placements whose spec is Composed. Nodes on which it
   * does not stand any more are left out. In a transaction of its own, in the tenant's scope.
   */
  compose?(
    db: Database,
    tenantId: string,
    id: string,
    nodeIds: readonly string[],
  ): Promise<ReadonlyMap<string, object>>;
  /**
   * Whether `observed` makes nothing of a report with this status, whatever else it says. Kinds of which one change tells
   * many nodes say so: then reports that no job waits for are written down together (libs/nodes/quiet-reports.ts).
   */
  disregards?(status: Record<string, unknown> | null): boolean;
  /**
   * A node is gone: nothing runs there any more. In the transaction that says so, which spans tenants; its placements count
   * as not ready already. Locks nothing but rows of its own, and does not throw: the node is off whatever comes of it.
   */
  nodeGone?(tx: Tx, nodeId: string): Promise<void>;
  /** Nest controllers for verbs of its own. */
  controllers?: readonly (new (
    ...args: any[]
  ) => object)[];
  /** OpenAPI paths of those controllers. */
  extraPaths?: Record<string, unknown>;
  extraSchemas?: Record<string, unknown>;
}

/** Gives a manifest its types without widening it. */
export function defineKind<Row extends CoreRow>(kind: KindDefinition<Row>): KindDefinition<Row> {
  return kind;
}

export type { FieldError };
