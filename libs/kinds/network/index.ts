export { cidrFindings, parseCidr6 } from './cidr6.js';
export { type FoundGuest, type FoundNetwork, findGuest, findNetwork } from './guests.js';
export { claimLease, randomMac, releaseLeasesOf, renameLeasesOf } from './leases.js';
export { nodesWithin, tellMembers } from './members.js';
export { IsIpv4Address } from './network.dto.js';
export { network } from './network.kind.js';
export { composeSpecs } from './node-specs.js';
export { leaveNode, lockNetworks, moveRouter, placeNetworks, refreshNetworks } from './on-nodes.js';
export { doorAddress } from './part-specs.js';
export {
  addPart,
  changePart,
  holdEdges,
  keepEdges,
  type NetworkPart,
  PART_RELATION,
  refuseFull,
  setPart,
  takePart,
} from './parts.js';
export { type NetworkOnNode, type NetworkOnNodes, networkOnNodes, orderRouter } from './router-place.js';
export { addressErrors } from './subnet.js';
