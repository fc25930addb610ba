/** What users write and read of a public address. */
import { IsString, Length, Matches } from 'class-validator';
import { namePattern, nameRule } from '#libs/core';
import { Describe, Nullable, Optional, Reference } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';

export class PublicaddressUpdate extends CoreCreate {
  @Reference('instance', 'The machine whose address it is, both ways (1:1 NAT to its first interface); null: nobody’s.')
  @Optional()
  @Nullable()
  instance?: string | null;
}

export class PublicaddressCreate extends PublicaddressUpdate {
  @Describe('The pool to take it from; default: the first by name.', { example: 'public' })
  @Optional()
  @IsString()
  @Length(1, 63)
  @Matches(namePattern, { message: nameRule })
  pool?: string;
}

export class PublicaddressView extends PublicaddressCreate {
  @Describe('The address.', { readOnly: true, example: '203.0.113.7' })
  @IsString()
  ip!: string;

  @Describe('Id of the network over which it reaches its machine; null without one.', {
    readOnly: true,
    nullable: true,
  })
  @IsString()
  network!: string | null;
}
