/** The manifest of kind apitoken. */
import { sql } from 'kysely';
import type { Database } from '#libs/db';
import { defineKind, type KindDefinition } from '#libs/resources';
import { ApitokenCreate, ApitokenSecrets, ApitokenUpdate, ApitokenView } from './apitoken.dto.js';
import { ApitokenResource, type ApitokenRow, revoke } from './apitoken.resource.js';

/** How long tokens that have expired are still shown. */
const SHOWN_DAYS = 30;

async function removeExpired(db: Database): Promise<void> {
  await db.operatorTransaction(async (tx) => {
    await sql`delete from resource r using apitoken t
      where t.expires_at < now() - make_interval(days => ${SHOWN_DAYS}) and r.tenant_id = t.tenant_id and r.id = t.id
        and not exists (select from job j where j.tenant_id = r.tenant_id and j.resource_id = r.id and j.finished_at is null)`.execute(
      tx,
    );
  });
}

export const apitoken: KindDefinition<ApitokenRow> = defineKind<ApitokenRow>({
  name: 'apitoken',
  plural: 'apitokens',
  description: 'A bearer token with an end, for programs that call this API as you or as a service account.',
  dto: { create: ApitokenCreate, update: ApitokenUpdate, view: ApitokenView, secrets: ApitokenSecrets },
  table: 'apitoken',
  columns: ['prefix', 'subject', 'service_account_id', 'scopes', 'expires_at', 'last_used_at', 'revoked'],
  decidesAccess: true,
  readOnly: ['subject', 'prefix', 'lastUsedAt'],
  immutable: ['serviceAccount', 'expiresAt', 'expiresInDays', 'scopes'],
  audited: ['serviceAccount', 'expiresAt', 'scopes'],
  filters: {
    serviceAccount: {
      column: sql.ref('k.service_account_id'),
      type: 'uuid',
      description: 'Id of the service account.',
    },
  },
  view: (row) => ({
    serviceAccount: row.service_account_id,
    subject: row.subject,
    expiresAt: row.expires_at.toISOString(),
    scopes: row.scopes,
    prefix: row.prefix,
    lastUsedAt: row.last_used_at?.toISOString() ?? null,
  }),
  make: (scope) => new ApitokenResource(scope, apitoken),
  leaving: (tx, core) => revoke(tx, core, true),
  upkeep: removeExpired,
});
