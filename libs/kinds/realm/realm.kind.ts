/** The manifest of kind realm. */
import { defineKind, type KindDefinition } from '#libs/resources';
import { RealmCreate, RealmUpdate, RealmView } from './realm.dto.js';
import { RealmResource, type RealmRow } from './realm.resource.js';
import { updateRealmsBehind } from './upkeep.js';

/** There is one of a tenant, and this is its name. */
export const REALM_NAME = 'login';

export const realm: KindDefinition<RealmRow> = defineKind<RealmRow>({
  name: 'realm',
  plural: 'realms',
  description: 'Where the tenant’s people and programs log in, kept at the identity provider by Rhyzome.',
  dto: { create: RealmCreate, update: RealmUpdate, view: RealmView },
  table: 'realm',
  columns: ['mode', 'place_mode', 'left_mode', 'issuer', 'organization', 'open'],
  readOnly: ['issuer', 'organization', 'enabled'],
  view: (row) => ({
    mode: row.place_mode,
    leftPlace: row.left_mode,
    issuer: row.issuer,
    organization: row.organization,
    enabled: row.open && row.issuer !== null,
  }),
  changes: [],
  administered: true,
  make: (scope) => new RealmResource(scope, realm),
  upkeep: (db, signal) => updateRealmsBehind(db, realm, signal),
});
