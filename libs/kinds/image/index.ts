export {
  type CollectingLog,
  ContentCollector,
  collectContents,
  collectParts,
  holdLentContent,
  removeContentIfUnused,
} from './collecting.js';
export { type ImageContents, imageContents, openImageContents, provideImageContents } from './contents.js';
export { image } from './image.kind.js';
export type { ImageDocument, ImageRow } from './image.row.js';
export {
  addGlobalImage,
  checkImageImport,
  findGlobalImage,
  type GlobalImage,
  type ImageImport,
  listGlobalImages,
  removeGlobalImage,
  sweepContents,
} from './import.js';
export { PLACEHOLDER_SHA256, placeholderContent, placeholderImage } from './placeholder.js';
