# Writes OUTPUT, a C++ file with the shaders of FOLDER as strings: cmake -DFOLDER=… -DOUTPUT=… -P …
# A shader is one source string at run time, so its local includes are put in place, each once.
cmake_minimum_required(VERSION 3.24)

function(expand file result)
  file(READ "${FOLDER}/${file}" text)
  string(REPLACE "#pragma once\n" "" text "${text}")
  while(text MATCHES "#include \"([^\"]+)\"\n")
    set(line "${CMAKE_MATCH_0}")
    set(name "${CMAKE_MATCH_1}")
    get_property(seen GLOBAL PROPERTY seen_${stem}_${name})
    set(included "")
    if(NOT seen)
      set_property(GLOBAL PROPERTY seen_${stem}_${name} TRUE)
      expand(${name} included)
    endif()
    string(FIND "${text}" "${line}" at)
    string(LENGTH "${line}" length)
    math(EXPR after "${at} + ${length}")
    string(SUBSTRING "${text}" 0 ${at} before)
    string(SUBSTRING "${text}" ${after} -1 rest)
    set(text "${before}${included}${rest}")
  endwhile()
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

file(GLOB shaders RELATIVE "${FOLDER}" "${FOLDER}/*.metal")
set(entries "")
foreach(shader IN LISTS shaders)
  cmake_path(GET shader STEM stem)
  expand(${shader} text)
  if(EXPANDED)  # for a compiler that runs at build time
    file(WRITE "${EXPANDED}/${stem}.metal" "${text}")
  endif()
  # Compilers limit the length of one literal; adjacent ones are joined.
  set(literals "")
  string(LENGTH "${text}" n)
  foreach(at RANGE 0 ${n} 8000)
    string(SUBSTRING "${text}" ${at} 8000 part)
    string(APPEND literals "\n    R\"msl(${part})msl\"")
  endforeach()
  string(APPEND entries "    {\"${stem}\",${literals}},\n")
endforeach()
file(WRITE "${OUTPUT}" "#include \"metal/shader_sources.h\"

namespace quarrel::metal {

std::span<const ShaderSource> shader_sources() {
  static constexpr ShaderSource sources[] = {
${entries}  };
  return sources;
}

}  // namespace quarrel::metal
")
