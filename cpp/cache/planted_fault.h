// Mistakes that the tests of the tests switch on, to show that the model-based tests catch them.
// Compiled out unless QUARREL_PLANT_FAULTS is defined, which only a test target does.
#pragma once

namespace quarrel {

enum class PlantedFault {
  None,
  TrimOffByOne,       // trim drops a block that still holds the last token
  MissingReference,   // fork forgets to count itself as a holder of its last block
  StaleTableEntry,    // copy-on-write leaves the old block in the table
  HashWithoutParent,  // blocks with equal tokens but other texts before them are taken for equal
};

#ifdef QUARREL_PLANT_FAULTS
inline PlantedFault active_fault = PlantedFault::None;
inline bool planted(PlantedFault fault) { return fault == active_fault; }
#else
constexpr bool planted(PlantedFault) { return false; }
#endif

}  // namespace quarrel
