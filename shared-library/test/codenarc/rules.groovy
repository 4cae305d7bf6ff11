// CodeNarc's rules for code that Jenkins transforms (CPS). Each rule needs the file names it applies to.
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
