export { image } from './image.kind.js';
export type { ImageRow } from './image.resource.js';
export {
  addGlobalImage,
  checkImageImport,
  findGlobalImage,
  type GlobalImage,
  type ImageImport,
  listGlobalImages,
  removeContentIfUnused,
  removeGlobalImage,
  sweepContents,
} from './import.js';
export { PLACEHOLDER_SHA256, placeholderContent, placeholderImage } from './placeholder.js';
