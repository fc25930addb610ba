/** What users read of a realm, and what `rhyzome tenant` writes. */
import { IsBoolean, IsIn, IsString } from 'class-validator';
import { Describe, Nullable, Optional } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';

const modes = ['realm', 'organization'] as const;
export type RealmMode = (typeof modes)[number];

export class RealmCreate extends CoreCreate {
  @Describe('Whether the tenant has a realm of its own, or is one organization in a realm that tenants share.', {
    example: 'realm',
  })
  @IsIn(modes)
  mode!: RealmMode;
}

export class RealmUpdate extends RealmCreate {
  @Describe('Where people logged in before a move: closed, and still there.')
  @Optional()
  @IsIn(modes)
  leftPlace?: RealmMode;
}

export class RealmView extends RealmUpdate {
  @Describe('The `iss` of tokens of the tenant’s people and programs; null: the place is not made yet.', {
    readOnly: true,
    example: 'https://id.example/realms/acme',
  })
  @Nullable()
  @IsString()
  issuer!: string | null;

  @Describe('Their claim `organization`, in a shared realm; null in a realm of the tenant’s own.', { readOnly: true })
  @Nullable()
  @IsString()
  organization!: string | null;

  @Describe('Whether anybody can log in; nobody can while the tenant is suspended.', { readOnly: true })
  @IsBoolean()
  enabled!: boolean;
}
