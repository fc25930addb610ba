/** What users write and read of a service account. */
import { applyDecorators } from '@nestjs/common';
import { IsBoolean, IsString, MaxLength } from 'class-validator';
import { Describe, Optional } from '#libs/openapi';
import { CoreCreate, CoreOfFixedName } from '#libs/resources';
import { ArePublicKeys, type PublicKeys } from './public-keys.js';

function Description(): PropertyDecorator {
  return applyDecorators(
    Describe('What it is for.', { example: 'Deploys the shop' }),
    Optional(),
    IsString(),
    MaxLength(255),
  );
}

function Keys(): PropertyDecorator {
  return applyDecorators(
    Describe(
      'Public keys by which it logs in at the tenant’s identity provider (private_key_jwt), a JSON Web Key Set. Default: none; it has API tokens only.',
    ),
    Optional(),
    ArePublicKeys(),
  );
}

export class ServiceaccountCreate extends CoreCreate {
  @Description()
  description?: string;

  @Keys()
  publicKeys?: PublicKeys;
}

export class ServiceaccountUpdate extends CoreOfFixedName {
  @Description()
  description?: string;

  @Keys()
  publicKeys?: PublicKeys;
}

export class ServiceaccountView {
  @Describe('What it is for.', { nullable: true })
  @IsString()
  description!: string | null;

  @Describe('Its public keys, each with an id.', { nullable: true, schema: { type: ['object', 'null'] } })
  publicKeys!: PublicKeys | null;

  @Describe('Whether its tokens are accepted.', { readOnly: true })
  @IsBoolean()
  enabled!: boolean;

  @Describe('As what it logs in at the identity provider; null without keys.', { readOnly: true, nullable: true })
  @IsString()
  clientId!: string | null;

  @Describe('The sub of tokens that the identity provider gives it; null without keys.', {
    readOnly: true,
    nullable: true,
  })
  @IsString()
  subject!: string | null;
}
