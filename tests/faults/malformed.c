/* Asks an exported policy of three observations COUNT times through TensorFlow's C API, mostly for what it must refuse.

   malformed POLICY INPUT OUTPUT COUNT

   A line on standard output for each tensor that was answered and should not have been, or not answered and should have been; the last
   line is "COUNT made". */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void check(const TF_Status *status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "malformed: %s\n", TF_Message(status));
  exit(1);
}

static TF_Output named(TF_Graph *graph, const char *tensor) {
  char name[512];
  const char *colon = strrchr(tensor, ':');
  snprintf(name, sizeof name, "%.*s", (int)(colon - tensor), tensor);
  TF_Output output = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  return output;
}

static const TF_DataType TYPES[] = {TF_FLOAT, TF_FLOAT, TF_FLOAT, TF_DOUBLE, TF_INT32, TF_INT64, TF_BOOL, TF_HALF};

/* A tensor of a random type and shape; `good` says whether it is an observation. */
static TF_Tensor *made(int *good) {
  TF_DataType type = TYPES[rand() % 8];
  int64_t shape[4], count = 1;
  int rank = rand() % 5 ? rand() % 4 : 2;
  for (int i = 0; i < rank; i++) count *= shape[i] = rand() % 3 ? rand() % 5 : 3;
  TF_Tensor *tensor = TF_AllocateTensor(type, shape, rank, (size_t)count * TF_DataTypeSize(type));
  memset(TF_TensorData(tensor), 0, TF_TensorByteSize(tensor));
  *good = type == TF_FLOAT && rank == 2 && shape[1] == 3;
  if (type == TF_FLOAT) {
    float *values = TF_TensorData(tensor);
    for (int64_t i = 0; i < count; i++) values[i] = (float)rand() / (float)RAND_MAX * 20 - 10;
    if (count && rand() % 3 == 0) {
      const float bad[] = {NAN, INFINITY, -INFINITY};
      values[rand() % count] = bad[rand() % 3];
      *good = 0;
    }
  }
  return tensor;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  const char *tags[] = {"serve"};
  long count = atol(argv[4]);
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);
  TF_Output input = named(graph, argv[2]), output = named(graph, argv[3]);
  srand(1);
  for (long i = 0; i < count; i++) {
    int good;
    TF_Tensor *given = made(&good), *action = NULL;
    TF_SessionRun(session, NULL, &input, &given, 1, &output, &action, 1, NULL, 0, NULL, status);
    int answered = TF_GetCode(status) == TF_OK;
    if (answered != good) printf("tensor %ld, of type %d and rank %d, was %s\n", i, TF_TensorType(given), TF_NumDims(given), answered ? "answered" : "refused");
    if (action) TF_DeleteTensor(action);
    TF_DeleteTensor(given);
  }
  printf("%ld made\n", count);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  return 0;
}
