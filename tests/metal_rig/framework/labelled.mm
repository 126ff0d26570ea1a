#include "software_metal.h"

@implementation RigLabelled
@synthesize label = _label;
- (void)dealloc {
  [_label release];
  [super dealloc];
}
@end
