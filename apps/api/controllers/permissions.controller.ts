/** What the caller may do, and why or why not. Nothing is told of what the caller may not know of. */
import { Controller, Get, Inject, Req, Res } from '@nestjs/common';
import { sql } from 'kysely';
import {
  AccessDirectory,
  type Actor,
  type AuthorizationTarget,
  explain,
  explainKind,
  forbidden,
  InvalidToken,
  isAllowed,
  mayAll,
  permissionsOf,
  type Reason,
  type Role,
  roles,
} from '#libs/auth';
import { invalid, isName, isUuid, notFound, type ResourceCore } from '#libs/core';
import { Database } from '#libs/db';
import { type Caller, coreOf, grantableKinds, KindRegistry, ResourceReader } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters } from '#libs/rest';

interface Question {
  verb: string;
  kind: string;
  /** Absent: of the kind as a whole. */
  core?: ResourceCore & { isPublic: boolean };
}

const subjectKinds = ['user', 'serviceaccount', 'group', 'role', 'sub'];

@Controller('v1/permissions')
export class PermissionsController {
  constructor(
    @Inject(Database) private readonly db: Database,
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
  ) {}

  @Get()
  list(@Req() request: Request, @Res() reply: Reply): void {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    const { actor } = callerOf(request);
    reply.send({
      subject: actor.subject,
      name: actor.name ?? null,
      tenant: actor.tenantId,
      roles: actor.roles,
      groups: actor.groups ?? [],
      scopes: actor.scopes?.map(({ kind, verb }) => `${kind}:${verb}`) ?? null,
      via: actor.via,
      expiresAt: actor.tokenExpiresAt?.toISOString() ?? null,
      items: permissionsOf(actor, grantableKinds()),
    });
  }

  @Get('explain')
  async explain(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    const query = request.query as Record<string, unknown>;
    refuseUnknownParameters(query, ['verb', 'resource', 'subject']);
    const caller = callerOf(request);
    const question = await this.questionOf(caller, textOf(query, 'verb'), textOf(query, 'resource'));
    const about = query.subject === undefined ? caller.actor : await this.actorOf(caller, textOf(query, 'subject'));
    const { verb, kind, core } = question;
    const answer = (actor: Actor) => (core ? explain(actor, verb, core) : explainKind(actor, verb, kind));
    reply.send({
      verb,
      resource: { kind, id: core?.id ?? null, name: core?.name ?? null },
      ...('refused' in about
        ? { subject: about.subject, allowed: false, reasons: [about.refused] }
        : { subject: about.subject, ...answer(about) }),
    });
  }

  /** Throws RhyzomeError `invalid`; `not_found` also for what the caller may not know of. */
  private async questionOf(caller: Caller, verb: string, resource: string): Promise<Question> {
    const [first = '', second] = resource.split(/\/(.*)/s);
    const kind = second === undefined && isUuid(first) ? await this.kindOf(caller, first) : first;
    const known = grantableKinds().find(({ name }) => name === kind);
    if (!known) {
      const message = 'must be a kind, kind/idOrName or an id';
      throw invalid([{ parameter: 'resource', code: 'invalid_value', message }]);
    }
    if (!known.verbs.includes(verb)) {
      const message = `must be one of ${known.verbs.join(', ')} for ${kind}`;
      throw invalid([{ parameter: 'verb', code: 'invalid_value', message }]);
    }
    if (second === undefined && kind === first) return { verb, kind };
    const definition = this.registry.find(kind);
    if (!definition) throw notFound(kind, second ?? '');
    const { row } = await this.reader.get(caller, definition, second ?? first);
    return { verb, kind, core: { ...coreOf(row), isPublic: row.tenant_id !== caller.actor.tenantId } };
  }

  /** Of the resource with an id; one that the caller may not read is not told from one that is not there. */
  private async kindOf({ actor }: Caller, id: string): Promise<string> {
    const query = sql<Omit<AuthorizationTarget, 'isPublic'>>`
      select r.kind, r.tenant_id as "tenantId", r.id, r.name, r.tags, r.created_by as "createdBy" from resource r
      where r.id = ${id} and (r.tenant_id in (${actor.tenantId}, 'system') or r.published)`;
    const [found] = await this.db.tenantRead(actor.tenantId, query.compile(this.db.builder));
    const isPublic = found?.tenantId !== actor.tenantId;
    if (!found || !isAllowed(actor, 'read', { ...found, isPublic })) throw notFound('resource', id);
    return found.kind;
  }

  /**
   * Somebody else, as he would come in. Throws RhyzomeError `forbidden` for who may not read all grants, `invalid`,
   * `not_found`.
   */
  private async actorOf(caller: Caller, text: string): Promise<Actor | { subject: string; refused: Reason }> {
    const { actor } = caller;
    if (!mayAll(actor, 'read', 'grant')) throw forbidden(actor, 'read', 'grant');
    const [kind = '', name = ''] = text.split(/\/(.*)/s);
    const isKept = kind === 'user' || kind === 'serviceaccount';
    if (!subjectKinds.includes(kind) || name === '' || (isKept && !isUuid(name) && !isName(name))) {
      const message = `must be one of ${subjectKinds.join(', ')} with a name, e.g. user/alice`;
      throw invalid([{ parameter: 'subject', code: 'invalid_value', message }]);
    }
    const nobody: Actor = { tenantId: actor.tenantId, subject: text, roles: [], scopes: null, via: 'token' };
    const base = isKept ? await this.keptOne(caller, kind, name, nobody) : partOf(nobody, kind, name);
    try {
      return await new AccessDirectory(this.db).enrich(base);
    } catch (error) {
      if (!(error instanceof InvalidToken)) throw error;
      return { subject: base.subject, refused: { allows: false, message: error.message } };
    }
  }

  private async keptOne(caller: Caller, kind: string, name: string, nobody: Actor): Promise<Actor> {
    const definition = this.registry.find(kind);
    if (!definition) throw notFound(kind, name);
    const { body, row } = await this.reader.get(caller, definition, name);
    const { subject, role, groups } = body as { subject?: string | null; role?: Role | null; groups?: string[] };
    return {
      ...nobody,
      subject: subject ?? nobody.subject,
      name: row.name,
      roles: role ? [role] : [],
      groups: await this.namesOf(caller, groups ?? []),
      resourceId: row.id,
    };
  }

  private async namesOf({ actor: { tenantId } }: Caller, ids: readonly string[]): Promise<string[]> {
    if (ids.length === 0) return [];
    const query = sql<{ name: string }>`select r.name from resource r
      where r.tenant_id = ${tenantId} and r.kind = 'group' and r.id = any(${ids}::uuid[])`;
    return (await this.db.tenantRead(tenantId, query.compile(this.db.builder))).map(({ name }) => name);
  }
}

function partOf(nobody: Actor, kind: string, name: string): Actor {
  if (kind === 'group') return { ...nobody, groups: [name] };
  if (kind === 'sub') return { ...nobody, subject: name };
  if (!(roles as readonly string[]).includes(name)) throw notFound('role', name);
  return { ...nobody, roles: [name as Role] };
}

const MAX_TEXT = 300;

function textOf(query: Record<string, unknown>, parameter: string): string {
  const value = query[parameter];
  const problem =
    value === undefined || value === ''
      ? { code: 'required', message: 'is required' }
      : typeof value !== 'string'
        ? { code: 'invalid_value', message: 'must stand there once' }
        : value.length > MAX_TEXT || !value.isWellFormed() || value.includes('\0')
          ? { code: 'invalid_value', message: `must be text of at most ${MAX_TEXT} characters` }
          : undefined;
  if (problem) throw invalid([{ parameter, ...problem }]);
  return value as string;
}
