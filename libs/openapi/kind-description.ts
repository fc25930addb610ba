/** What the API's description needs to know of a kind. */
import type { DtoClass } from './dto-plan.js';

export interface ActionDescription {
  name: string;
  summary: string;
  /** Its body; none: no body is taken. */
  dto?: DtoClass;
  /** What only its first answer tells. */
  secretsDto?: DtoClass;
}

export interface KindDescription {
  /** Singular: network. */
  name: string;
  /** In URLs: networks. */
  plural: string;
  summary?: string;
  /** Without it the kind cannot be created by users. */
  createDto?: DtoClass;
  /** Without it there is no PATCH. */
  updateDto?: DtoClass;
  /** Its own fields of answers; the common ones are added. */
  viewDto: DtoClass;
  /** What only the first answer to a create tells. */
  secretsDto?: DtoClass;
  actions: readonly ActionDescription[];
  /** Fields for `field=value` in lists, beside state and name. */
  filters?: readonly string[];
  /** Fields for `sort`, beside name, createdAt and updatedAt. */
  sorts?: readonly string[];
  /** False: no DELETE. */
  isDeletable?: boolean;
}
