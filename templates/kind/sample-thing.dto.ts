/** What users write and read of a sample thing. */
import { IsString, Length } from 'class-validator';
import { Describe } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';

export class SampleThingCreate extends CoreCreate {
  @Describe('What it says, up to 255 characters.', { example: 'hello' })
  @IsString()
  @Length(1, 255)
  note!: string;
}

/** What a changed one must look like as a whole. */
export class SampleThingUpdate extends SampleThingCreate {}

/** Fields that only answers have go here, with `readOnly: true`, and into the manifest's `readOnly`. */
export class SampleThingView extends SampleThingCreate {}
