/* Asks an exported policy for actions through TensorFlow's C API: no Python at all.

   act POLICY INPUT OUTPUT WIDTH < observations

   POLICY is a version of a policy, runs/.../policy/1. INPUT and OUTPUT are the tensors of a signature as policy/1/assets.extra/policy.json
   names them, such as serving_default_observation:0 and StatefulPartitionedCall_3:0. Standard input holds observations, WIDTH numbers each; the
   answers go to standard output, a line for each row. Exit code: 0, or 1 with a sentence on standard error.

   How to compile it stands in docs/serving.md. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "act: %s: %s\n", what, why);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

/* The operation and the number behind the colon of a tensor's name. */
static TF_Output named(TF_Graph *graph, const char *tensor) {
  char name[512];
  const char *colon = strrchr(tensor, ':');
  size_t length = colon ? (size_t)(colon - tensor) : strlen(tensor);
  if (length >= sizeof name) fail(tensor, "the name is too long");
  memcpy(name, tensor, length);
  name[length] = '\0';
  TF_Output output = {TF_GraphOperationByName(graph, name), colon ? atoi(colon + 1) : 0};
  if (!output.oper || output.index < 0 || output.index >= TF_OperationNumOutputs(output.oper)) fail(tensor, "the graph has no such tensor");
  return output;
}

/* Reads numbers to the end of the input. */
static float *numbers(size_t *count) {
  size_t room = 1024;
  float *found = malloc(room * sizeof *found);
  *count = 0;
  while (found && scanf("%f", &found[*count]) == 1) {
    if (++*count == room) found = realloc(found, (room *= 2) * sizeof *found);
  }
  if (!found) fail("standard input", "there is not enough memory");
  if (!feof(stdin)) fail("standard input", "only numbers are allowed");
  return found;
}

static void print(const TF_Tensor *tensor) {
  int64_t rows = TF_NumDims(tensor) ? TF_Dim(tensor, 0) : 1, count = TF_TensorElementCount(tensor), width = rows ? count / rows : 0;
  const void *data = TF_TensorData(tensor);
  for (int64_t i = 0; i < count; i++) {
    switch (TF_TensorType(tensor)) {
      case TF_FLOAT: printf("%.9g", ((const float *)data)[i]); break;
      case TF_INT32: printf("%d", ((const int32_t *)data)[i]); break;
      case TF_INT64: printf("%lld", (long long)((const int64_t *)data)[i]); break;
      default: fail("the answer", "it is neither float32 nor int32 nor int64");
    }
    putchar((i + 1) % width ? ' ' : '\n');
  }
}

int main(int argc, char **argv) {
  if (argc != 5 || atoi(argv[4]) < 1) fail("usage", "act POLICY INPUT OUTPUT WIDTH < observations");
  const char *tags[] = {"serve"};
  int64_t width = atoi(argv[4]);
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, argv[1]);

  size_t count;
  float *given = numbers(&count);
  if (count % (size_t)width) fail("standard input", "the last observation is not complete");
  int64_t shape[] = {(int64_t)count / width, width};
  TF_Tensor *observation = TF_AllocateTensor(TF_FLOAT, shape, 2, count * sizeof *given);
  memcpy(TF_TensorData(observation), given, count * sizeof *given);

  TF_Output input = named(graph, argv[2]), output = named(graph, argv[3]);
  TF_Tensor *action = NULL;
  TF_SessionRun(session, NULL, &input, &observation, 1, &output, &action, 1, NULL, 0, NULL, status);
  check(status, "the policy refuses");
  print(action);

  TF_DeleteTensor(action);
  TF_DeleteTensor(observation);
  free(given);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
