// Text between C++ and Objective-C.
#pragma once

#import <Foundation/Foundation.h>

#include <string>
#include <string_view>

namespace quarrel::metal {

inline NSString* to_objc(std::string_view text) {
  return [[NSString alloc] initWithBytes:text.data()
                                  length:text.size()
                                encoding:NSUTF8StringEncoding];
}

inline std::string to_string(NSString* text) {
  return text == nil ? std::string() : std::string(text.UTF8String);
}

// What the system says went wrong.
inline std::string message_of(NSError* error) {
  return error == nil ? "no reason given" : to_string(error.localizedDescription);
}

}  // namespace quarrel::metal
