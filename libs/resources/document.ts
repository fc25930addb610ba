/** The fields that every kind's DTOs have. A kind's create and update DTOs extend CoreCreate. */

import { IsBoolean } from 'class-validator';
import type { Tags } from '#libs/core';
import { Describe, Optional, ResourceName, ResourceTags } from '#libs/openapi';

export class CoreCreate {
  @ResourceName()
  name!: string;

  @Optional()
  @ResourceTags()
  tags?: Tags;

  @Describe('True: a DELETE is refused until it is false again.')
  @Optional()
  @IsBoolean()
  deletionProtection?: boolean;
}

/** For the update DTOs of kinds whose names stand elsewhere, too, and cannot be changed (`name` is then immutable). */
export class CoreOfFixedName {
  @Optional()
  @ResourceTags()
  tags?: Tags;

  @Describe('True: a DELETE is refused until it is false again.')
  @Optional()
  @IsBoolean()
  deletionProtection?: boolean;
}

/** Read-only fields of every resource; sent ones are refused. */
export const coreReadOnly = [
  'id',
  'kind',
  'state',
  'conditions',
  'generation',
  'observedGeneration',
  'createdAt',
  'updatedAt',
  'createdBy',
  'job',
] as const;
