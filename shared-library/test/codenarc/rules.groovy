// CodeNarc's rules for what Jenkins transforms (CPS). They fire only for the file names that they are told.
ruleset {
    Map<String, Object> here = [applyToFileNames: '*.groovy']
    Map<String, Object> calls = here + [cpsScriptVariableName: 'script', cpsPackages: ['io.tidegate']]
    ClassNotSerializable(here)
    ClosureInGString(here)
    CpsCallFromNonCpsMethod(calls)
    ExpressionInCpsMethodNotSerializable(here)
    ForbiddenCallInCpsMethod(here)
    ObjectOverrideOnlyNonCpsMethods(here)
    ParameterOrReturnTypeNotSerializable(here)
}
