/** The manifest of kind sample-thing. */
import { defineKind, type KindDefinition } from '#libs/resources';
import { SampleThingCreate, SampleThingUpdate, SampleThingView } from './sample-thing.dto.js';
import { SampleThingResource, type SampleThingRow } from './sample-thing.resource.js';

export const sampleThing: KindDefinition<SampleThingRow> = defineKind<SampleThingRow>({
  name: 'sample-thing',
  plural: 'sample-things',
  description: 'A note.',
  dto: { create: SampleThingCreate, update: SampleThingUpdate, view: SampleThingView },
  table: 'sample_thing',
  columns: ['note'],
  view: (row) => ({ note: row.note }),
  make: (scope) => new SampleThingResource(scope, sampleThing),
});
