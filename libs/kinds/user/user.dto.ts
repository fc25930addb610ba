/** What users write and read of a user. */
import { applyDecorators } from '@nestjs/common';
import { ArrayMaxSize, ArrayUnique, IsArray, IsBoolean, IsIn, IsString, Matches, MaxLength } from 'class-validator';
import { type Role, roles } from '#libs/auth';
import { Describe, Optional } from '#libs/openapi';
import { AreReferences, CoreCreate, CoreOfFixedName } from '#libs/resources';

const MAX_GROUPS = 50;

/** As browsers check it (WHATWG HTML §4.10.5.1.5). */
const emailPattern =
  /^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$/;
/** What Keycloak takes for a person's name (its validator person-name-prohibited-characters). */
const personPattern = /^[^\p{Cc}<>&"$%!#?§;*~/\\|^=[\]{}()]{1,255}$/u;

function Email(): PropertyDecorator {
  return applyDecorators(
    Describe('Its address, unique in the tenant; kept in lower case. It can log in with it, too.', {
      example: 'alice@acme.example',
    }),
    Optional(),
    IsString(),
    MaxLength(254),
    Matches(emailPattern, { message: 'must be an e-mail address' }),
  );
}

function PersonName(text: string, example: string): PropertyDecorator {
  return applyDecorators(
    Describe(text, { example }),
    Optional(),
    IsString(),
    Matches(personPattern, { message: 'must be 1 to 255 characters as names of people have them' }),
  );
}

function LoginRole(): PropertyDecorator {
  return applyDecorators(Describe('Default: none; grants say what it may do.'), Optional(), IsIn(roles));
}

function Groups(): PropertyDecorator {
  return applyDecorators(
    Describe('The groups that it is in: ids or names; answered by id.', { example: ['ops'] }),
    Optional(),
    IsArray(),
    ArrayMaxSize(MAX_GROUPS),
    ArrayUnique(),
    AreReferences(),
  );
}

export class UserCreate extends CoreCreate {
  @Email()
  email?: string;

  @PersonName('Given name.', 'Alice')
  firstName?: string;

  @PersonName('Family name.', 'Liddell')
  lastName?: string;

  @LoginRole()
  role?: Role;

  @Groups()
  groups?: string[];
}

export class UserUpdate extends CoreOfFixedName {
  @Email()
  email?: string;

  @PersonName('Given name.', 'Alice')
  firstName?: string;

  @PersonName('Family name.', 'Liddell')
  lastName?: string;

  @LoginRole()
  role?: Role;

  @Groups()
  groups?: string[];
}

export class UserView {
  @Describe('Its address.', { nullable: true })
  @IsString()
  email!: string | null;

  @Describe('Given name.', { nullable: true })
  @IsString()
  firstName!: string | null;

  @Describe('Family name.', { nullable: true })
  @IsString()
  lastName!: string | null;

  @Describe('Its role; null: none.', { nullable: true, schema: { enum: [...roles, null] } })
  role!: Role | null;

  @Describe('Ids of the groups that it is in.')
  @IsArray()
  @IsString({ each: true })
  groups!: string[];

  @Describe('Whether it can log in, and its tokens are accepted.', { readOnly: true })
  @IsBoolean()
  enabled!: boolean;

  @Describe('The sub of its tokens; null until its account is made.', { readOnly: true, nullable: true })
  @IsString()
  subject!: string | null;

  @Describe('When it was given its last one-time password.', {
    readOnly: true,
    nullable: true,
    schema: { type: ['string', 'null'], format: 'date-time' },
  })
  lastInvitedAt!: string | null;
}

/** In the answer to the create or the invitation, and nowhere else. */
export class UserSecrets {
  @Describe('For its next login, at which it sets a password of its own.', { example: 'k7mzq-…' })
  @IsString()
  oneTimePassword!: string;
}
