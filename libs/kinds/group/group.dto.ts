/** What users write and read of a group. */
import { applyDecorators } from '@nestjs/common';
import { IsInt, IsString, MaxLength } from 'class-validator';
import { Describe, Optional } from '#libs/openapi';
import { CoreCreate, CoreOfFixedName } from '#libs/resources';

function Description(): PropertyDecorator {
  return applyDecorators(
    Describe('Who is in it.', { example: 'Those who run the shop' }),
    Optional(),
    IsString(),
    MaxLength(255),
  );
}

export class GroupCreate extends CoreCreate {
  @Description()
  description?: string;
}

export class GroupUpdate extends CoreOfFixedName {
  @Description()
  description?: string;
}

class GroupMembers {
  @Describe('How many users are in it.')
  @IsInt()
  total!: number;
}

export class GroupView {
  @Describe('Who is in it.', { nullable: true })
  @IsString()
  description!: string | null;

  @Describe('Its users; they say themselves which groups they are in.', { readOnly: true })
  members!: GroupMembers;
}
