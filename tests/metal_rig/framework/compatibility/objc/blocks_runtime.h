// gnustep-base includes this header of a newer runtime for its blocks.
#pragma once
#include <Block.h>
